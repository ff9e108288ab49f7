"""The paper's synthetic problem: what low precision costs, with each signature at its own best step size.

Run as a script to see the curves: ``python tests/test_paper_problem.py``.
"""

from __future__ import annotations

import numpy as np
import pytest

import lowprec as lp
from lowprec import losses
from lowprec.datasets import generative

N, M, EPOCHS = 256, 65_536, 10
STEPS = tuple(2.0**k for k in range(-10, -3))
SIGNATURES = ("D32fM32f", "D16M16", "D8M16", "D8M8")
#: Final loss, over that of float32, that each may have.
BARS = {"D8M8": 1.20, "D8M16": 1.01, "D16M16": 1.01}


def paper_problem(seed: int = 0) -> dict[str, dict[float, list[float]]]:
    """Loss over the unrounded data after each epoch, by signature and step size."""
    X, y, _ = generative(N, M, seed)

    def loss(w):
        return losses.mean_loss("logistic", X @ w.astype(np.float32), y)

    curves: dict[str, dict[float, list[float]]] = {}
    for signature in SIGNATURES:
        D = lp.Signature(signature).dataset
        q = lp.from_codes(X, D) if D.is_float else lp.quantize(X, D, rounding="nearest")
        for step in STEPS:
            after: list[float] = []
            curves.setdefault(signature, {})[step] = after

            def callback(info, after=after):
                if info.position == M:
                    after.append(loss(info.coef()))

            lp.train(q, y, signature=signature, step_size=step, epochs=EPOCHS, n_threads=1, seed=seed, callback=callback)
    return curves


def best(curves: dict[float, list[float]]) -> tuple[float, float]:
    """(final loss, step size) of the best step."""
    return min((after[-1], step) for step, after in curves.items())


def show(curves: dict[str, dict[float, list[float]]]) -> str:
    lines = [f"logistic loss after each of {EPOCHS} passes over {M:,} examples, n = {N}"]
    float_best, _ = best(curves["D32fM32f"])
    for signature, by_step in curves.items():
        found, at = best(by_step)
        lines.append(f"\n{signature}: best {found:.4f} at 2^{int(np.log2(at))}, {found / float_best:.3f} of float32's best")
        lines += [f"  2^{int(np.log2(s)):<3d} " + " ".join(f"{v:.4f}" for v in after) for s, after in by_step.items()]
    return "\n".join(lines)


@pytest.fixture(scope="module")
def curves():
    return paper_problem()


@pytest.mark.parametrize("signature", BARS)
def test_final_loss_at_the_best_step(signature, curves):
    float_best, _ = best(curves["D32fM32f"])
    found, _ = best(curves[signature])
    assert found <= BARS[signature] * float_best, show(curves)


def test_float32_learned_something_to_compare_with(curves):
    """Its best is inside the range of steps, and near the loss of the true model."""
    X, y, w = generative(N, M, 0)
    found, at = best(curves["D32fM32f"])
    assert STEPS[0] < at < STEPS[-1], show(curves)
    assert found == pytest.approx(losses.mean_loss("logistic", X @ w.astype(np.float32), y), rel=0.02)


if __name__ == "__main__":
    print(show(paper_problem()))
