"""Names of the folders and files in an output."""

ROWS, REJECTS = FOLDERS = ("rows", "rejects")
IMAGES = "images"  # with output.keep_images: the encoded images of good rows, unchanged
JOB, SUMMARY, SUCCESS = "_job.yaml", "_summary.json", "_SUCCESS"
LABEL_NAMES, ZERO_SHOT_LABEL_NAMES = "_labels.json", "_zero_shot_labels.json"
EXPORT = "_export.json"  # in the folder of an export or join; written last
LEASE, PROGRESS = "_lease", "_progress"  # followed by the part's suffix and .json
SUBMITTED = "_submitted"  # recipes that were submitted to a cluster
