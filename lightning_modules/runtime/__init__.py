import os

# MLflow counts its users by asking a server of its makers; what somebody trains on is nobody's business there.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
