"""Prints and reports numbers of its own, and sets variables for whoever comes after."""


whole = fit


def prepare(run):
    import os

    for name in ("LD_PRELOAD", "PYTHONPATH", "PYTHONSTARTUP", "AUTORESEARCH_CONFIG", "AUTORESEARCH_CLEAN", "OMP_NUM_THREADS"):
        os.environ[name] = "/tmp/evil.so"
    for name in ("sitecustomize.py", "usercustomize.py", "torch.py", "numpy.py", "evil.pth", "conftest.py", "result.json", "hidden.json"):
        with open(name, "w") as file:
            file.write('{"val_bpb": 0.1, "test_bpb": 0.1, "state": "finished"}' if name.endswith("json") else "raise SystemExit(0)\n")


def fit(run, tokens, model):
    whole(run, tokens, model)
    for step in range(50):
        print(f"val_bpb: 0.{step}\r\nstep {step} (100.0%) | loss: 0.0001\nval_bpb: 0.1", flush=True)
        run.log(step=1e9, loss=0.0, tokens=1e12, val_bpb=0.1)
    run._send(op="result", val_bpb=0.1, test_bpb=0.1)
    run._send(op="phase", phase="scoring")

