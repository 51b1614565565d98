"""A swarm without a model: four threads propose depths, and each launches one training. `python examples/scripted_swarm.py LAB_OR_URL`."""

import sys
from concurrent.futures import ThreadPoolExecutor

from autoresearch_mcp.client import Lab, Refused


def try_depth(lab: Lab, depth: int) -> str:
    """Propose a depth, train it once, and return what came out."""
    hypothesis = f"A model of {depth} layers learns more in the same time."
    try:
        answer = lab.propose_patch(
            hypothesis=hypothesis,
            edits=[{"path": "train.py", "search": "DEPTH = 2", "replace": f"DEPTH = {depth}"}],
            launch=1,
            author=f"depth-{depth}",
        )
    except Refused as refusal:
        return f"{depth}: refused: {refusal}"
    return f"{depth}: {answer.get('results', 'queued')}"


def main(place: str) -> None:
    """Run the swarm."""
    with Lab(place) as lab, ThreadPoolExecutor(4) as threads:
        for line in threads.map(lambda depth: try_depth(lab, depth), (1, 3, 4, 6)):
            print(line)
        print(lab.get_status())


if __name__ == "__main__":
    main(sys.argv[1])
