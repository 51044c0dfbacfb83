"""What a sweep shows in MLflow."""
