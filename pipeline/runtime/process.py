"""One process of a launch, which says that it was started and ends: `launch.count_processes` counts them."""

STARTED = "this process was started"

if __name__ == "__main__":
    print(STARTED, flush=True)
