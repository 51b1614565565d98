"""Lists the system calls that a training's sandbox knows, with their numbers on x86_64 and aarch64 (fixed).

The numbers come from the kernel's `asm/unistd_64.h` and `asm-generic/unistd.h`, as of Linux 7.1. A call that is in none of these tables is answered
as unknown, as by an older kernel. So a call of a newer kernel is out of reach until somebody has thought about it and put it here.
"""

Numbers = tuple[int | None, int | None]  # on x86_64, on aarch64; None where the call doesn't exist


def _read(table: str) -> dict[str, Numbers]:
    """Read a table of `name x86_64 aarch64`, separated by commas and lines. A dash stands for no such call, # opens a remark."""
    calls = {}
    for line in table.splitlines():
        for entry in line.partition("#")[0].split(","):
            if entry.strip():
                name, *numbers = entry.split()
                x86_64, aarch64 = (None if number == "-" else int(number) for number in numbers)
                calls[name] = (x86_64, aarch64)
    return calls


# Let through, some of them only with certain arguments or to some processes: see seccomp.py
ALLOWED = _read("""
# Files and directories
read 0 63, write 1 64, readv 19 65, writev 20 66, pread64 17 67, pwrite64 18 68, preadv 295 69, pwritev 296 70, pwritev2 328 287
open 2 -, openat 257 56, creat 85 -, close 3 57, close_range 436 436, lseek 8 62, stat 4 -, fstat 5 80, lstat 6 -
newfstatat 262 79, statx 332 291, access 21 -, faccessat 269 48, faccessat2 439 439, readlink 89 -, readlinkat 267 78
getdents 78 -, getdents64 217 61, getcwd 79 17, chdir 80 49, fchdir 81 50, mkdir 83 -, mkdirat 258 34, mknod 133 -
mknodat 259 33, rmdir 84 -, unlink 87 -, unlinkat 263 35, rename 82 -, renameat 264 38, renameat2 316 276, link 86 -
linkat 265 37, symlink 88 -, symlinkat 266 36, umask 95 166, ftruncate 77 46, fallocate 285 47, fsync 74 82, fdatasync 75 83
sync 162 81, syncfs 306 267, sync_file_range 277 84, getxattr 191 8, lgetxattr 192 9, fgetxattr 193 10, getxattrat 464 464
listxattr 194 11, llistxattr 195 12, flistxattr 196 13, listxattrat 465 465, file_getattr 468 468, name_to_handle_at 303 264
copy_file_range 326 285, sendfile 40 71, splice 275 76, tee 276 77, vmsplice 278 75, dup 32 23, dup2 33 -, dup3 292 24
fcntl 72 25, ioctl 16 29, flock 73 32
# Pipes, waiting for descriptors, connected pairs of sockets
pipe 22 -, pipe2 293 59, poll 7 -, ppoll 271 73, select 23 -, pselect6 270 72, epoll_create 213 -, epoll_create1 291 20
epoll_ctl 233 21, epoll_wait 232 -, epoll_pwait 281 22, epoll_pwait2 441 441, eventfd 284 -, eventfd2 290 19, signalfd 282 -
signalfd4 289 74, timerfd_create 283 85, timerfd_settime 286 86, timerfd_gettime 287 87, socketpair 53 199, sendto 44 206
recvfrom 45 207, recvmsg 47 212, recvmmsg 299 243, shutdown 48 210, getsockname 51 204, getpeername 52 205, getsockopt 55 209
setsockopt 54 208
# Memory
mmap 9 222, munmap 11 215, mremap 25 216, mprotect 10 226, madvise 28 233, brk 12 214, msync 26 227, mlock 149 228
mlock2 325 284, munlock 150 229, mlockall 151 230, munlockall 152 231, remap_file_pages 216 234, mbind 237 235
get_mempolicy 239 236, set_mempolicy 238 237, set_mempolicy_home_node 450 450, pkey_mprotect 329 288, pkey_alloc 330 289
pkey_free 331 290, mseal 462 462, map_shadow_stack 453 453, membarrier 324 283
# Processes, threads, signals
clone 56 220, fork 57 -, vfork 58 -, execve 59 221, execveat 322 281, exit 60 93, exit_group 231 94, wait4 61 260, waitid 247 95
kill 62 129, tkill 200 130, tgkill 234 131, rt_sigaction 13 134, rt_sigprocmask 14 135, rt_sigpending 127 136
rt_sigsuspend 130 133, rt_sigtimedwait 128 137, rt_sigqueueinfo 129 138, rt_tgsigqueueinfo 297 240, rt_sigreturn 15 139
sigaltstack 131 132, restart_syscall 219 128, pause 34 -, alarm 37 -, futex 202 98, set_robust_list 273 99
get_robust_list 274 100, set_tid_address 218 96, set_thread_area 205 -, get_thread_area 211 -, arch_prctl 158 -, prctl 157 167
prlimit64 302 261, seccomp 317 277, rseq 334 293, rseq_slice_yield 471 471, uprobe 336 -, uretprobe 335 -, sched_yield 24 124
sched_getaffinity 204 123, sched_get_priority_max 146 125, sched_get_priority_min 147 126
# Who and what it is, and what it used
getpid 39 172, getppid 110 173, gettid 186 178, getpgrp 111 -, getuid 102 174, geteuid 107 175, getgid 104 176, getegid 108 177
getresuid 118 148, getresgid 120 150, getgroups 115 158, setuid 105 146, setgid 106 144, setreuid 113 145, setregid 114 143
setresuid 117 147, setresgid 119 149, setgroups 116 159, setfsuid 122 151, setfsgid 123 152, capget 125 90, capset 126 91
uname 63 160, sysinfo 99 179, getcpu 309 168, getrandom 318 278, getrlimit 97 163, getrusage 98 165, times 100 153
# Time
clock_gettime 228 113, clock_getres 229 114, clock_nanosleep 230 115, nanosleep 35 101, gettimeofday 96 169, time 201 -
getitimer 36 102, setitimer 38 103, timer_create 222 107, timer_settime 223 110, timer_gettime 224 108, timer_getoverrun 225 109
timer_delete 226 111
""")

# Refused, as PermissionError
REFUSED = _read("""
# Sockets of every kind, but for a connected pair: UDP, unix and abstract ones too
connect 42 203, accept 43 202, accept4 288 242
# Shared memory, semaphores and message queues that have a name
shmget 29 194, shmat 30 196, shmctl 31 195, semget 64 190, semop 65 193, semctl 66 191, semtimedop 220 192, msgget 68 186
msgsnd 69 189, msgrcv 70 188, msgctl 71 187, mq_open 240 180, mq_unlink 241 181
# Other processes: their memory, limits and priority; and leaving the process group that the run is stopped by
ptrace 101 117, process_vm_readv 310 270, process_vm_writev 311 271, process_madvise 440 440, process_mrelease 448 448
pidfd_open 434 434, pidfd_getfd 438 438, pidfd_send_signal 424 424, kcmp 312 272, move_pages 279 239, migrate_pages 256 238
setpgid 109 154, setsid 112 157, getpriority 140 141, setpriority 141 140, ioprio_get 252 31, ioprio_set 251 30
setrlimit 160 164
# Questions about the page cache, and reading that loads it
mincore 27 232, cachestat 451 451, readahead 187 213, fadvise64 221 223, preadv2 327 286
# Marks on files that outlive the process, and watching who opens what
truncate 76 45, setxattr 188 5, lsetxattr 189 6, fsetxattr 190 7, setxattrat 463 463, removexattr 197 14, lremovexattr 198 15
fremovexattr 199 16, removexattrat 466 466, file_setattr 469 469, inotify_init 253 -, inotify_init1 294 26
fanotify_init 300 262
# Kernel surface that no training needs. The requests of io_setup are counted over the whole machine, which has 65,536
io_setup 206 0, io_uring_setup 425 425, io_uring_enter 426 426, io_uring_register 427 427, bpf 321 280, perf_event_open 298 241
userfaultfd 323 282, add_key 248 217, request_key 249 218, keyctl 250 219, unshare 272 97, setns 308 268, chroot 161 51
pivot_root 155 41, mount 165 40, umount2 166 39, open_tree 428 428, move_mount 429 429, fsopen 430 430, fsconfig 431 431
fsmount 432 432, fspick 433 433, mount_setattr 442 442, open_by_handle_at 304 265, quotactl 179 60, quotactl_fd 443 443
swapon 167 224, swapoff 168 225, acct 163 89, reboot 169 142, kexec_load 246 104, kexec_file_load 320 294, init_module 175 105
finit_module 313 273, delete_module 176 106, syslog 103 116, personality 135 92, settimeofday 164 170, clock_settime 227 112
clock_adjtime 305 266, adjtimex 159 171, vhangup 153 58, sethostname 170 161, setdomainname 171 162, modify_ldt 154 -
iopl 172 -, ioperm 173 -, uselib 134 -
""")

# Refused but for CUDA. Its driver listens on an abstract socket of its own, where nobody can connect, and may use memory files.
# What sendmsg sends besides bytes, open files, is nobody's until it is received, and nobody counts it. statfs tells the room on the disk.
FOR_CUDA = _read("""
socket 41 198, bind 49 200, listen 50 201, memfd_create 319 279, memfd_secret 447 447, sendmsg 46 211, sendmmsg 307 269
statfs 137 43, fstatfs 138 44
""")

# Answered as done, and not done: modes, owners and times are marks on files too, but `cp` and `ld` set them in passing
PRETENDED = _read("""
chmod 90 -, fchmod 91 52, fchmodat 268 53, fchmodat2 452 452, chown 92 -, fchown 93 55, lchown 94 -, fchownat 260 54
utime 132 -, utimes 235 -, futimesat 261 -, utimensat 280 88
""")

# Refused but for the calling thread itself, which their first argument calls 0
SELF_ONLY = _read("""
getpgid 121 155, getsid 124 156, sched_getparam 143 121, sched_getscheduler 145 120, sched_getattr 315 275
sched_rr_get_interval 148 127, sched_setaffinity 203 122, sched_setparam 142 118, sched_setscheduler 144 119
sched_setattr 314 274
""")

# Of these, how soon a thread gets a core
PRIORITY = ("sched_setparam", "sched_setscheduler", "sched_setattr")

# Allowed to code without the contract, whose budget is the wall's: what leaves the accounts of CPU time, or the process group, gains nothing
FOR_SCRIPTS = ("setrlimit", "setsid", "setpgid")

# Allowed to such code in a world of its own, where what these reach is the run's own, and all but its folder is read-only
IN_A_WORLD = (
    *("socket", "bind", "listen", "connect", "accept", "accept4", "sendmsg", "sendmmsg", "sendto", "memfd_create", "statfs", "fstatfs"),
    *(
        "shmget",
        "shmat",
        "shmctl",
        "semget",
        "semop",
        "semctl",
        "semtimedop",
        "msgget",
        "msgsnd",
        "msgrcv",
        "msgctl",
        "mq_open",
        "mq_unlink",
    ),
    *("truncate", "setxattr", "lsetxattr", "fsetxattr", "removexattr", "lremovexattr", "fremovexattr"),
    *PRETENDED,
)

# Allowed where all processes that an id can name are the run's own; of those that depend on their arguments elsewhere, all arguments
BY_ID = (*SELF_ONLY, "getpriority", "setpriority", "pidfd_open", "pidfd_send_signal")
