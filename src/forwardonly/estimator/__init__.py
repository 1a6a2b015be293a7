"""Scikit-learn's face: a classifier and a regressor, multilayer perceptrons whose layers are trained locally."""

try:
    from forwardonly.estimator.classifier import ForwardOnlyClassifier
    from forwardonly.estimator.regressor import ForwardOnlyRegressor
except ModuleNotFoundError as missing:
    if (missing.name or "").partition(".")[0] != "sklearn":
        raise
    raise ImportError("forwardonly.estimator needs scikit-learn: pip install 'forward-only[sklearn]'") from missing

__all__ = ["ForwardOnlyClassifier", "ForwardOnlyRegressor"]
