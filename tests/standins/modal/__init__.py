"""A loopback stand-in for Modal's service: the real client talks to it, and its sandboxes really run, as processes of this machine.

- It keeps apps, volumes, mounts, names, tags, logs and time limits. Of an image it keeps the hash, and the files that it copies.
- It can be away, full or slow, and it can preempt. `standin.Standin` is the handle for that.
- It enforces no network, GPU or memory limits, but records what was asked for.
"""
