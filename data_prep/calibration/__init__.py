"""Camera calibration: files, patterns, estimation, undistortion."""
