"""Models become quantised generators: the framework's parts do what they promise, files come back, work goes on."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from forebear.diffusion.model import DiffusionModel
from forebear.errors import ConfigError, ModelError
from forebear_generators.evaluation.measures import psnr
from forebear_generators.generator import Generator, Request
from forebear_generators.quantisation.comparison import compare
from forebear_generators.quantisation.files import PARTS, TENSORS, _skeleton, load_quantised, read_description
from forebear_generators.quantisation.maintenance import Cache, Dropped, KeptFeature, choose, places
from forebear_generators.quantisation.network import (
    QuantisedDenoiser,
    Structure,
    assemble,
    cache_tensors,
    float_tensors,
)
from forebear_generators.quantisation.quantise import Quantisation, quantise
from forebear_generators.quantisation.reconstruction import outputs_of
from forebear_generators.quantisation.settings import (
    CalibrationConfig,
    QuantisationConfig,
    RoundingConfig,
    TemporalConfig,
    WeightsConfig,
)
from forebear_generators.quantisation.temporal import TemporalBlock
from forebear_generators.quantisation.workspace import FOLDER, Workspace

Build = Callable[..., DiffusionModel]
Save = Callable[..., Path]
STEPS = 4


def tiny(variant: str = "w4a8", **options: Any) -> QuantisationConfig:
    settings: dict[str, Any] = {
        "steps": STEPS,
        "calibration": CalibrationConfig(pictures=3, every=2, batch=2),
        "rounding": RoundingConfig("adaround", iterations=5, learning_rate=1e-2, batch=4),
        "weights": WeightsConfig(candidates=8),
    }
    return QuantisationConfig(variant=variant, **settings | options)


def request(count: int = 2, guidance: float = 1.0) -> Request:
    return Request(("red heart", "a cat")[:count], (0, 2)[:count], (3, 4)[:count], "own", STEPS, guidance)


def distance(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float(((found - wanted).norm() / wanted.norm()).detach())


# A model that predicts x0 does not multiply small errors, as a random one that predicts noise does.
CALM = {"prediction_type": "sample"}


@pytest.fixture(scope="module")
def plain_model(saved: Save) -> Path:
    return saved("none", scheduler=CALM)


@pytest.fixture(scope="module")
def quantised(plain_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("quantised")
    quantise(plain_model, tiny(), folder)
    return folder


@pytest.mark.parametrize("variant", ["w8a8", "w8a32"])
def test_eight_bits_stay_close(plain_model: Path, tmp_path: Path, variant: str) -> None:
    quantise(plain_model, tiny(variant, rounding=RoundingConfig(method="nearest")), tmp_path)
    wanted = Generator.load(plain_model).run(request(guidance=2.0)).pixels
    found = Generator.load(tmp_path).run(request(guidance=2.0)).pixels
    assert 0 < distance(found, wanted) < 0.1


@pytest.mark.parametrize("method", ["adaround", "feedback"])
def test_every_kind_of_model(saved: Save, stable_diffusion: Path, dit: Path, tmp_path: Path, method: Any) -> None:
    rounding = RoundingConfig(method, iterations=1, batch=4)
    for place, folder in enumerate((saved("class"), stable_diffusion, dit)):
        out = tmp_path / str(place)
        calibration = CalibrationConfig(pictures=1, every=STEPS)
        description = quantise(folder, tiny("w8a8", guidance=2.0, rounding=rounding, calibration=calibration), out)
        full, small = (Generator.load(each).model for each in (folder, out))
        condition = full.condition(["a cat"], [2])
        for time in description.structure.times:
            x = torch.randn(1, *full.x0_shape, generator=torch.Generator().manual_seed(0))
            wanted, found = (each.denoise(x, torch.tensor([int(time)]), condition) for each in (full, small))
            assert 0 < distance(found, wanted) < 0.2, (folder, time)
        assert Generator(small).run(request(1, 2.0)).pixels.isfinite().all()
        # A class for each of DiT's thousand would not fit, so that its block stays.
        assert bool(description.structure.cached) == (folder != dit)


def test_files_hold_integers_and_come_back(quantised: Path, plain_model: Path) -> None:
    tensors = load_file(quantised / TENSORS)
    codes = {name: each for name, each in tensors.items() if name.endswith(".codes")}
    assert {each.dtype for each in codes.values()} == {torch.uint8}
    full = DiffusionModel.load(plain_model)
    name = "down_blocks.0.resnets.0.conv1"
    assert codes[f"{name}.codes"].numel() == full.denoiser.get_submodule(name).weight.numel() // 2
    assert len(tensors[f"{name}.input_scale"]) == STEPS
    assert not [each for each in tensors if "time_embedding" in each or "time_emb_proj.codes" in each]
    assert {path.name for path in quantised.iterdir()} == {"generator.json", TENSORS, PARTS}
    suffixes = {path.suffix for path in quantised.rglob("*") if path.is_file()}
    assert suffixes == {".json", ".safetensors"}
    assert not list((quantised / PARTS / "denoiser").glob("*.safetensors"))
    first, second = (Generator.load(quantised, source=full).run(request()).pixels for _ in range(2))
    assert torch.equal(first, second)
    wanted = Generator.load(plain_model).run(request()).pixels
    assert distance(first, wanted) < 0.5


def test_layers_read_back_are_those_that_were_calibrated(plain_model: Path, tmp_path: Path) -> None:
    """The generator's denoiser computes what the student with its ranges computes."""
    config = tiny(temporal=TemporalConfig(maintenance="block"))
    work = Quantisation(DiffusionModel.load(plain_model), config, Workspace(tmp_path, "here"))
    work.draw()
    work.round_weights()
    seen = work.watch()
    structure, tensors, _ = work.finish(seen)
    for name, grid in work.grids(seen).items():
        work.inner.get_submodule(name).quantise_inputs(*grid)
    loaded = assemble(DiffusionModel.load(plain_model).denoiser, structure, tensors)
    condition = work.model.condition(["a cat"], [None])
    x = torch.randn(1, *work.model.x0_shape)
    for time in structure.times:
        wanted = work.student.denoise(x, torch.tensor([int(time)]), condition)
        found = loaded(x, timestep=torch.tensor([int(time)]), **condition.arguments()).sample
        assert torch.equal(found, wanted)


def cached_only(model: DiffusionModel, width: str) -> DiffusionModel:
    """The model with its temporal features in a cache, and nothing quantised."""
    block = TemporalBlock(model.denoiser)
    times = tuple(float(move.time) for move in model.process.moves(STEPS))
    classes = int(getattr(model.conditioner, "classes", 0))
    rows = torch.tensor(times).long().repeat_interleave(max(classes, 1))
    with torch.no_grad():
        labels = torch.arange(classes).repeat(STEPS) if classes else None
        features = block.compute_alone(rows, labels)
    dropped = (*block.embeddings, *block.class_embeddings)
    structure = Structure(times, {}, (), tuple(features), (), dropped)
    tensors: dict[str, torch.Tensor] = {}
    for name, each in features.items():
        cache = Cache.of(each.view(STEPS, -1, each.shape[1]), width)
        tensors |= cache_tensors(name, cache, torch.arange(STEPS, dtype=torch.int32))
    gone = tuple(f"float.{name}." for name in (*dropped, *features))
    tensors |= {name: each for name, each in float_tensors(model.denoiser).items() if not name.startswith(gone)}
    denoiser = assemble(model.denoiser, structure, tensors)
    return DiffusionModel(denoiser, model.scheduler, model.codec, model.conditioner)


@pytest.mark.parametrize("conditioning", ["none", "class", "text"])
def test_a_cached_generator_is_the_full_precision_one_bit_for_bit(build: Build, conditioning: str) -> None:
    wanted = Generator(build(conditioning)).run(request(), batch=1).pixels
    cached = Generator(cached_only(build(conditioning), "float32"))
    assert torch.equal(cached.run(request(), batch=1).pixels, wanted)
    # In larger batches the model's own products may round differently from one row's.
    torch.testing.assert_close(cached.run(request()).pixels, wanted, rtol=0, atol=1e-3)
    half = Generator(cached_only(build(conditioning), "float16")).run(request(), batch=1).pixels
    assert 0 < distance(half, wanted) < 1e-2


def test_an_eight_bit_cache_is_within_half_a_step() -> None:
    features = torch.randn(3, 2, 50) * torch.tensor([1.0, 10.0, 0.1]).view(3, 1, 1)
    cache = Cache.of(features, "int8")
    assert cache.values.dtype == torch.uint8
    assert cache.scale is not None
    assert ((cache.read() - features).abs().amax((1, 2)) <= cache.scale * 1.01).all()
    torch.testing.assert_close(cache.read(1), cache.read()[1])


def test_each_feature_is_kept_the_better_way() -> None:
    block = {"a": torch.tensor([1.0, 5.0]), "b": torch.tensor([0.0, 2.0])}
    cache = {"a": torch.tensor([2.0, 2.0]), "b": torch.tensor([1.0, 1.0])}

    def chosen(**settings: Any) -> dict[str, list[bool]]:
        found = choose(block, cache, TemporalConfig(**settings), possible=True)
        return {name: each.tolist() for name, each in found.items()}

    assert chosen() == {"a": [True, True], "b": [True, True]}  # 4 < 6, 2 <= 2
    assert chosen(granularity="step") == {"a": [False, True], "b": [False, True]}
    assert chosen(maintenance="block") == {"a": [False, False], "b": [False, False]}
    assert chosen(maintenance="cache", granularity="step") == {"a": [True, True], "b": [True, True]}
    assert not any(each.any() for each in choose(block, cache, TemporalConfig(), possible=False).values())
    with pytest.raises(ConfigError, match="cache_classes"):
        choose(block, cache, TemporalConfig(maintenance="cache"), possible=False)
    assert places(torch.tensor([False, True, False, True])).tolist() == [-1, 0, -1, 1]


def test_features_may_be_cached_at_some_steps_only(plain_model: Path, tmp_path: Path) -> None:
    """An int8 cache and an 8-bit block are about as good, so that the choice differs between steps."""
    temporal = TemporalConfig(cache="int8", granularity="step", reconstruction="none")
    description = quantise(plain_model, tiny("w8a8", temporal=temporal), tmp_path)
    assert description.structure.computed
    assert not description.structure.dropped
    generator = Generator.load(tmp_path)
    kept = [each for each in generator.model.denoiser.modules() if isinstance(each, KeptFeature)]
    assert any((each.place < 0).any() and (each.place >= 0).any() for each in kept)
    wanted = Generator.load(plain_model).run(request()).pixels
    assert distance(generator.run(request()).pixels, wanted) < 0.1


@pytest.mark.parametrize("conditioning", ["none", "class"])
def test_reconstruction_and_ranges_per_step_quarter_the_error_of_features(
    saved: Save, tmp_path: Path, conditioning: str
) -> None:
    model = DiffusionModel.load(saved(conditioning, unet={"block_out_channels": [32, 32], "norm_num_groups": 4}))
    nearest = WeightsConfig(search="minmax"), TemporalConfig(reconstruction="none", per_step="none")
    errors = []
    for place, (weights, temporal) in enumerate((nearest, (WeightsConfig(), TemporalConfig()))):
        config = tiny(steps=6, weights=weights, temporal=temporal)
        work = Quantisation(model, config, Workspace(tmp_path / str(place), "here"))
        work._round_temporal(lambda: None)
        errors.append(work.kept_features()[2]["relative_error_block"])
    assert errors[1] <= errors[0] / 4


@pytest.mark.parametrize("conditioning", ["none", "class"])
def test_rows_of_several_steps_are_read_by_the_ranges_of_their_own(
    saved: Save, tmp_path: Path, conditioning: str
) -> None:
    """What rounding a block learns from is what the block gives when each step is computed on its own."""
    model = DiffusionModel.load(saved(conditioning, scheduler=CALM))
    work = Quantisation(model, tiny(), Workspace(tmp_path, "here"))
    work.draw()
    work._round_temporal(lambda: None)
    unit = "down_blocks.0.resnets.0"
    scales = work.inner.get_submodule(f"{unit}.time_emb_proj").input_scale
    assert len(scales.unique()) > 1
    inputs, _ = work._inputs(unit)
    steps = range(0, STEPS, work.config.calibration.every)
    alone = outputs_of(work.inner, unit, work.data.passes(work.student, steps, work.config.calibration.batch))
    rows = torch.arange(inputs.rows).flip(0)
    with torch.no_grad():
        together = inputs.call(work.inner.get_submodule(unit), rows)
    torch.testing.assert_close(together, alone[rows], rtol=0, atol=1e-5)


@pytest.mark.parametrize("method", ["adaround", "feedback"])
def test_chosen_rounding_lowers_the_error(plain_model: Path, tmp_path: Path, method: Any) -> None:
    """At w4a32, where rounding alone decides: its outputs are nearer than the nearest codes'."""
    learned = RoundingConfig(method, iterations=25, learning_rate=3e-2, batch=4, weight=1e-4)
    full = DiffusionModel.load(plain_model)
    errors = []
    for place, rounding in enumerate((RoundingConfig(method="nearest"), learned)):
        work = Quantisation(full, tiny("w4a32", rounding=rounding), Workspace(tmp_path / str(place), "here"))
        work.draw()
        work.round_weights()
        runs = zip(*(work.data.passes(model, range(STEPS), 3) for model in (full, work.student)), strict=True)
        with torch.no_grad():
            errors.append(sum(float((first() - second()).square().sum()) for first, second in runs))
    assert errors[1] < errors[0]


def test_roundings_are_kept_for_another_way_to_keep_features(
    plain_model: Path, quantised: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Generators that differ in that alone share them, others the pictures; all are as if made on their own."""
    done: list[str] = []
    save = Workspace.save
    monkeypatch.setattr(Workspace, "save", lambda self, step, tensors: (done.append(step), save(self, step, tensors)))
    block = tiny(temporal=TemporalConfig(maintenance="block"))
    quantise(plain_model, block, tmp_path / "block", work=tmp_path / "work")
    steps = len(done)
    quantise(plain_model, tiny(), tmp_path / "selected", work=tmp_path / "work")
    assert len(done) == steps == len(set(done))
    assert (tmp_path / "selected" / TENSORS).read_bytes() == (quantised / TENSORS).read_bytes()
    quantise(plain_model, tiny("w8a32"), tmp_path / "other", work=tmp_path / "work")
    assert done.count("trajectories") == 1
    one_range = tiny("w8a32", temporal=TemporalConfig(per_step="none"))
    quantise(plain_model, one_range, tmp_path / "one-range", work=tmp_path / "work")
    assert done.count("unit-0000") == 2  # floating activations have no ranges that could differ
    monkeypatch.undo()
    quantise(plain_model, tiny("w8a32"), tmp_path / "alone")
    assert (tmp_path / "other" / TENSORS).read_bytes() == (tmp_path / "alone" / TENSORS).read_bytes()


def test_feedback_goes_on_to_the_same_bytes(plain_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny(rounding=RoundingConfig("feedback"))
    quantise(plain_model, config, tmp_path / "once")
    save = Workspace.save

    def interrupted(self: Workspace, step: str, tensors: dict[str, torch.Tensor]) -> None:
        save(self, step, tensors)
        if step == "unit-0003":
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Workspace, "save", interrupted)
        with pytest.raises(KeyboardInterrupt):
            quantise(plain_model, config, tmp_path / "twice")
    quantise(plain_model, config, tmp_path / "twice")
    first, second = ((tmp_path / name / TENSORS).read_bytes() for name in ("once", "twice"))
    assert first == second
    full = load_file(tmp_path / "once" / TENSORS)["down_blocks.0.resnets.0.conv1.bias"]
    assert not torch.equal(full, DiffusionModel.load(plain_model).denoiser.down_blocks[0].resnets[0].conv1.bias)


def test_an_interrupted_quantisation_goes_on_to_the_same_bytes(
    plain_model: Path, quantised: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = Workspace.save
    done: list[str] = []

    def interrupted(self: Workspace, step: str, tensors: dict[str, torch.Tensor]) -> None:
        save(self, step, tensors)
        done.append(step)
        if len(done) in (1, 2, 5, 9):
            raise KeyboardInterrupt

    monkeypatch.setattr(Workspace, "save", interrupted)
    for _ in range(4):
        with pytest.raises(KeyboardInterrupt):
            quantise(plain_model, tiny(), tmp_path)
    assert (tmp_path / FOLDER).is_dir()
    with pytest.raises(ConfigError, match="--restart"):
        quantise(plain_model, tiny("w8a8"), tmp_path)
    quantise(plain_model, tiny(), tmp_path)
    assert len(done) == len(set(done))  # no step was done twice
    for name in (TENSORS, "generator.json"):
        assert (tmp_path / name).read_bytes() == (quantised / name).read_bytes()
    assert not (tmp_path / FOLDER).exists()


def test_another_model_and_damage_are_refused(quantised: Path, build: Build, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="give the model that was quantised"):
        load_quantised(quantised, build("none", seed=1))
    broken = tmp_path / "broken"
    shutil.copytree(quantised, broken)
    content = bytearray((broken / TENSORS).read_bytes())
    content[-1] ^= 1
    (broken / TENSORS).write_bytes(content)
    with pytest.raises(ModelError, match="is not the file"):
        Generator.load(broken)
    (broken / "generator.json").write_text('{"format": 1}')
    with pytest.raises(ModelError, match="is not complete"):
        Generator.load(broken)
    (broken / "generator.json").write_text('{"format": 99}')
    with pytest.raises(ModelError, match="has format 99"):
        Generator.load(broken)


def test_tensors_that_do_not_fit_are_refused(quantised: Path, plain_model: Path) -> None:
    description, _ = read_description(quantised)
    tensors = load_file(quantised / TENSORS)
    name = "down_blocks.0.resnets.0.conv1"

    def put(changed: dict[str, torch.Tensor]) -> QuantisedDenoiser:
        return assemble(DiffusionModel.load(plain_model).denoiser, description.structure, changed)

    assert put(tensors)
    for changed, problem in (
        ({key: each for key, each in tensors.items() if key != f"{name}.scale"}, "do not belong together"),
        (tensors | {"more": torch.zeros(1)}, "does not name: more"),
        (tensors | {f"{name}.codes": torch.zeros(3, dtype=torch.uint8)}, "3 bytes of packed codes"),
        (tensors | {"float.conv_in.bias": torch.zeros(3)}, "has shape"),
    ):
        with pytest.raises(ModelError, match=problem):
            put(changed)


def test_a_finished_generator_is_not_made_again(quantised: Path, plain_model: Path) -> None:
    before = (quantised / TENSORS).stat().st_mtime_ns
    assert quantise(plain_model, tiny(), quantised).config == tiny()
    assert (quantised / TENSORS).stat().st_mtime_ns == before
    with pytest.raises(ConfigError, match="other settings"):
        quantise(plain_model, tiny("w8a8"), quantised)


def test_two_generators_are_compared(quantised: Path, plain_model: Path) -> None:
    full, small = Generator.load(plain_model), Generator.load(quantised)
    found = compare(full, small, request())
    deviation = found.deviation()
    assert deviation.shape == (STEPS + 1, 2)
    assert not deviation[0].any()
    assert (deviation[1:] > 0).all()
    assert (psnr(*found.pixels) > 0).all()
    wanted, kept = found.features
    assert set(wanted) == set(kept)
    for name, each in wanted.items():
        assert 0 < distance(kept[name], each) < 1e-3, name  # a cache of float16
    assert all(not each.any() for each in compare(full, full, request()).deviation())


def test_other_steps_are_refused_with_the_remedy(quantised: Path) -> None:
    generator = Generator.load(quantised)
    assert (generator.sampler, generator.steps, generator.variant) == ("own", STEPS, "w4a8")
    assert generator.pictures(["a cat"], [0])[0].size == (8, 8)
    with pytest.raises(ConfigError, match="quantise the model again"):
        generator.pictures(["a cat"], [0], steps=3)


@pytest.mark.parametrize("variant", ["w3a8", "a8w8", "w4"])
def test_unknown_variants_are_refused(variant: str) -> None:
    with pytest.raises(ConfigError, match="w4a8"):
        QuantisationConfig(variant=variant)


def test_nothing_of_the_embeddings_is_left_where_all_is_cached(quantised: Path) -> None:
    denoiser = Generator.load(quantised).model.denoiser
    assert isinstance(denoiser, QuantisedDenoiser)
    assert isinstance(denoiser.inner.time_embedding, Dropped)  # type: ignore[union-attr]
    assert denoiser.bytes_in_memory() > 0


@pytest.mark.parametrize("kind", ["class", "transformer"])
def test_loading_never_holds_full_precision_weights(
    saved: Save, dit: Path, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only what the file keeps floating is ever a float32 tensor; buffers that no file holds are computed."""
    source = dit if kind == "transformer" else saved("class")
    config = QuantisationConfig(
        "w8a32",
        steps=2,
        calibration=CalibrationConfig(pictures=2),
        rounding=RoundingConfig(method="nearest"),
        weights=WeightsConfig(search="minmax"),
    )
    quantise(source, config, tmp_path)
    made: list[torch.Tensor] = []
    original = torch.nn.Module.register_parameter

    def note(module: torch.nn.Module, name: str, parameter: torch.nn.Parameter | None) -> None:
        made.extend([] if parameter is None else [parameter])
        original(module, name, parameter)

    monkeypatch.setattr(torch.nn.Module, "register_parameter", note)
    denoiser = _skeleton(tmp_path / "parts" / "denoiser")
    assert len(made) > 20
    assert all(parameter.is_meta for parameter in made)
    assert not any(buffer.is_meta for buffer in denoiser.buffers())
    monkeypatch.undo()
    loaded = load_quantised(tmp_path)[0].denoiser
    assert not any(each.is_meta for each in [*loaded.parameters(), *loaded.buffers()])
