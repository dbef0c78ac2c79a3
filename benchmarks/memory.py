"""Time a VAE training step on the CPU: freed memory goes back to the system, or stays in the process.

Both are timed in new processes. Stages keep freed memory (`pipeline.runtime.memory.keep_memory`).
"""

import statistics
import subprocess
import sys

from pipeline.runtime.stage import command_line

ROUNDS = 3
STEP = """
import sys, time, torch
from foundation.models import build_vae
from foundation.settings import VaeSettings
from pipeline.runtime.memory import keep_memory
if sys.argv[1] == "kept":
    keep_memory()
settings = dict(latent_channels=4, layers=1, norm_groups=16, steps=1, batch_size=16, learning_rate=1e-3)
settings |= dict(warmup_steps=1, max_grad_norm=1.0, chroma_weight=1.0, kl_weight=0.0, checkpoint_every=1)
vae = build_vae(VaeSettings(unshuffle=2, channels=(64, 96, 128), **settings), seed=0)
images, times = torch.rand(16, 12, 64, 32), []
for _ in range(8):
    start = time.perf_counter()
    with torch.autocast("cpu", torch.bfloat16):
        loss = vae(images).sample.float().square().mean()
    loss.backward()
    times.append(time.perf_counter() - start)
print(sorted(times)[4])
"""


def main() -> None:
    """Print the median step time of both, and their ratio."""
    command_line("memory", __doc__, "benchmarks").parse_args()
    times: dict[str, list[float]] = {"returned": [], "kept": []}
    for _ in range(ROUNDS):
        for kind, seconds in times.items():
            out = subprocess.run(
                [sys.executable, "-c", STEP, kind], capture_output=True, text=True, check=True
            )
            seconds.append(float(out.stdout))
    returned, kept = (statistics.median(seconds) for seconds in times.values())
    print(
        f"memory returned {1000 * returned:.0f} ms, kept {1000 * kept:.0f} ms a step: {returned / kept:.1f}x"
    )


if __name__ == "__main__":
    main()
