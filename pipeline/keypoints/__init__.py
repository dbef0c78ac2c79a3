"""Where keypoints come from: detectors, and files of other tools."""
