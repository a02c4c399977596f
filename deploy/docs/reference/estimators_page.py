"""docs/reference/estimators.md: every estimator, from the registry that runs them."""

from forebear.estimators import DEFAULT_ESTIMATOR, ESTIMATORS, Estimator
from forebear.estimators.registry import index_name
from reference.markdown import code, page, table

HEAD = f"""# Reference: estimators

Made from `forebear.estimators.ESTIMATORS`; `{DEFAULT_ESTIMATOR}` answers where none is named. score(i, q) = sum over checkpoints c of
w_c <phi_c(i), psi_c(q)>, and a positive score means that training on the image lowered the model's loss on the query.
[estimators.md](../estimators.md) explains the formulas and says how to add one, [methods.md](../methods.md) when to use which and where each fails.

g_t is the projected gradient of the measurement at timestep t, averaged over the draws of its noise; u_t = g_t / |g_t|; H_t
random signs of the timestep; e the sample's residual; C the inverse of (second moment + lambda x its mean eigenvalue)."""

COLUMNS = {
    "mean": "mean of g_t",
    "unit_mean": "mean of u_t",
    "unit_matched": "sum of H_t u_t / root of T",
    "square_mean": "mean of g_t",
    "output_unit_mean": "mean of u_t",
    "pixels": "pixels, at most 32 x 32",
    "keyed": "64 normal numbers, keyed by the image's id",
    "features": "features that the user brings",
}
"""By column, what it holds of one picture."""
SUMMED = {
    "weighted": "w_c = learning rate x batch size x epochs since the checkpoint before / N",
    "alike": "weight 1 each",
    "last": "the last alone",
}


def formula(method: Estimator) -> tuple[str, str]:
    """phi and psi in one line each."""
    held = COLUMNS[method.column]
    one = f"{held}, scaled to norm 1" if method.unit_rows else held
    query = "64 normal numbers, keyed by the query's pixels" if method.column == "keyed" else one
    return (f"e x {one}" if method.residual else one), (f"C ({query})" if method.ridge is not None else query)


def section(name: str) -> str:
    """One estimator."""
    method = ESTIMATORS[name]
    phi, psi = formula(method)
    shared = index_name(name)
    asked = [
        "`forebear embed` (the default)"
        if method.measurement == "loss"
        else f"`forebear embed --measurement {method.measurement}`"
    ]
    limits = []
    if method.equal_timesteps:
        limits.append("takes no other timesteps than the store's: no `--paper`, no `--timesteps`")
    if method.baseline:
        asked = ["`forebear index --estimator embedding --features FILE`" if name == "embedding" else "nothing"]
        limits.append("knows no regions and no noise levels")
    rows = [
        ("phi, the training image's vector", phi),
        ("psi, the query's", psi),
        ("column of the store", code(method.column) if not method.baseline else "none"),
        ("measurement", code(method.measurement) if method.measurement else "none"),
        ("what has to be there", asked[0] + ("" if shared == name else f"; searches the index of `{shared}`")),
        ("curvature", f"ridge, lambda {method.ridge:g}; `RUN/curvature/{method.column}`" if method.ridge else "none"),
        ("checkpoints", "no model takes part" if method.baseline else SUMMED[method.checkpoints]),
        ("limits", "; ".join(limits)),
    ]
    return page(f"## {name}", method.description, table(["what", "is"], [row for row in rows if row[1]]))


def estimators_page() -> str:
    listed = [
        (
            f"[`{name}`](#{name})",
            code(method.column),
            code(method.measurement) if method.measurement else "",
            f"{method.ridge:g}" if method.ridge is not None else "",
            code(index_name(name)),
        )
        for name, method in ESTIMATORS.items()
    ]
    return page(
        HEAD,
        table(["estimator", "column", "measurement", "lambda", "index"], listed),
        *(section(name) for name in ESTIMATORS),
    )
