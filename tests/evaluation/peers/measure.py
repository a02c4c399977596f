"""Runs in a peer's own environment: `measure.py quanda|dattri INPUT.npz OUTPUT.json`. Knows nothing of Forebear."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

Arrays = dict[str, Any]


def quanda(given: Arrays) -> dict[str, Any]:
    # quanda imports torchvision for its benchmarks. The wheels on package indexes are built for CUDA's torch; beside a
    # CPU build their compiled operators do not load, and two of them have to be known by name for the import to pass.
    names = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        names.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    from quanda.metrics.downstream_eval import MislabelingDetectionMetric, MRRMetric, RecallAtKMetric
    from quanda.metrics.ground_truth import LinearDatamodelingMetric
    from quanda.metrics.heuristics import TopKCardinalityMetric

    model = torch.nn.Identity()
    scores, losses = torch.tensor(given["scores"]), torch.tensor(given["losses"])
    queries, count = scores.shape
    rows = torch.utils.data.TensorDataset(torch.zeros(count))
    subsets = given["subsets"].tolist()
    lds = LinearDatamodelingMetric(
        model, rows, m=len(subsets), subset_ids=subsets, subset_ckpt_filenames=[""] * len(subsets)
    )
    lds.update(
        scores,
        test_targets=torch.zeros(queries, dtype=torch.long),
        test_data=None,
        subset_logits={number: -line for number, line in enumerate(losses)},
    )
    found: dict[str, Any] = {"lds": torch.cat(lds.results["scores"]).tolist()}
    relevant = torch.tensor(given["relevant"])
    for k in given["recall_at"].tolist():
        recall = RecallAtKMetric(model, rows, k=k)
        recall.update(scores, relevant)
        found[f"recall@{k}"] = recall.compute()["score"]
    mrr = MRRMetric(model, rows)
    mrr.update(scores, relevant)
    found["MRR"] = mrr.compute()["score"]
    top = TopKCardinalityMetric(model, rows, top_k=int(given["top"]))
    top.update(scores)
    found["unique ratio"] = top.compute()["score"]
    # Its ranking adds index x 1e-4 to every score, which steps of 1 between ranks outweigh for fewer than 10,000 rows.
    ranks = np.argsort(np.argsort(given["self_influence"])).astype(np.float64)
    planted = np.flatnonzero(given["planted"]).tolist()
    mislabelled = MislabelingDetectionMetric(model, rows, planted, precomputed_self_influence=torch.tensor(ranks))
    found["detection curve"] = mislabelled.compute()["score"]
    return found


def dattri(given: Arrays) -> dict[str, Any]:
    from dattri.metric import lds, mislabel_detection_auc

    values = (torch.tensor(-given["losses"]), torch.tensor(given["subsets"]))
    correlations, _ = lds(torch.tensor(given["scores"].T), values)
    auc, _ = mislabel_detection_auc(torch.tensor(given["self_influence"]), torch.tensor(given["planted"]))
    return {"lds": correlations.tolist(), "AUC": float(auc)}


if __name__ == "__main__":
    peer, source, target = sys.argv[1:]
    with np.load(source) as loaded:
        results = {"quanda": quanda, "dattri": dattri}[peer](dict(loaded))
    Path(target).write_text(json.dumps(results), encoding="utf-8")
