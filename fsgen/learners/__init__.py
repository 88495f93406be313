"""One discriminative few-shot learner a file; each registers itself by name."""
