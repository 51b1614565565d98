"""A loopback stand-in for Modal's service: the real client talks to it, and its sandboxes really run, as processes of this machine.

It keeps apps, volumes, mounts, images (by hash; of them only what they copy is made), names, tags, logs and time limits, and can be away, full, slow, or
preempt. It enforces no network, GPU or memory limits, but records what was asked for. See `standin.Standin` for its handle.
"""
