"""One process of a launch, which says that it was started and ends: `launch.count_processes` counts them."""

from pipeline.runtime.stage import command_line

STARTED = "this process was started"

if __name__ == "__main__":
    command_line("runtime.process", __doc__).parse_args()
    print(STARTED, flush=True)
