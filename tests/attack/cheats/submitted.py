"""Hands in what are no weights: a pickle, a link, a pipe, a header that lies, a file of holes."""

HOW = "pickle"


def submit(run, model, config):
    import json
    import os
    import pickle
    import struct

    name = client.WEIGHTS
    match HOW:
        case "pickle":
            with open(name, "wb") as file:
                pickle.dump({"table.weight": os.system}, file)
        case "symbolic link":
            os.symlink("/etc/passwd", name)
        case "hard link":
            os.link(__file__, name)
        case "pipe":
            os.mkfifo(name)
        case "folder":
            os.mkdir(name)
        case "holes":
            with open(name, "wb") as file:
                file.truncate(1 << 33)
        case "header":
            head = json.dumps({"table.weight": {"dtype": "F32", "shape": [512, 512], "data_offsets": [0, 1 << 40]}}).encode()
            with open(name, "wb") as file:
                file.write(struct.pack("<Q", len(head)) + head + bytes(512))
        case "long header":
            with open(name, "wb") as file:
                file.write(struct.pack("<Q", 1 << 62) + b"{")
        case "config":
            config = {"vocab_size": 512, "__class__": "x", "self": 1}
            run.submit(model.state_dict(), config | {"text": "x" * (64 << 10)})
        case "twice":
            from safetensors.torch import save_file

            save_file(model.state_dict(), name)
            run._send(op="submit", config=config)
            run._send(op="submit", config={"vocab_size": 4})
            run._send(op="result", val_bpb=0.1, state="finished")
    if HOW != "twice":
        run._send(op="submit", config=config)
    while run._channel.recv(1):
        pass
    raise SystemExit(0)
