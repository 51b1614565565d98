"""Prints, logs and notes without end."""


def prepare(run):
    for number in range(3000):
        run.note(**{f"key{number}": "x" * 4000})


whole = fit


def fit(run, tokens, model):
    whole(run, tokens, model)
    for number in range(200_000):
        print("x" * 1000)
        if number % 10 == 0:
            run.log(step=number, loss=1.0, tokens=number, **{f"extra{number % 1000}": 1.0})
