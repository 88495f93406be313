"""What is made of results files: tables. Nothing here imports torch."""
