"""The trained surrogate: encode, decode, save and load; and what is wrong with what was given."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tests.surrogate.support import bars, classifier_of, small_cnn
from tests.surrogate.test_checkpoint import TINY
from torch import Tensor, nn

from pellucid import Classifier, PellucidError
from pellucid.data import ContextTable, Preprocess
from pellucid.storage import from_record, to_record
from pellucid.surrogate import (
    LOGITS_ONLY,
    CheckpointError,
    Codes,
    SurrogateExplainer,
    TrainingOptions,
    load,
    train,
)
from pellucid.surrogate.model.image_space import DisplaySpace

Trained = tuple[SurrogateExplainer, Classifier, Path]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    out = tmp_path_factory.mktemp("surrogate") / "run"
    data = bars(64, 0, 0.5)
    classifier = classifier_of(small_cnn())
    return train(classifier, data.images, data.context, TINY, out, on_progress=None), classifier, out


def test_codes_have_the_blocks_that_were_requested(trained: Trained) -> None:
    explainer, _, _ = trained
    images = bars(7, 1, 0.5).images
    codes = explainer.encode(images, max_batch=3)
    assert (codes.context.shape, codes.latent.shape, codes.nuisance.shape) == ((7, 2), (7, 3), (7, 3))
    assert (explainer.context_names, explainer.latent_names) == (
        ("thickness", "intensity"),
        ("latent 1", "latent 2", "latent 3"),
    )
    torch.testing.assert_close(codes.to_vector(), explainer.encode(images).to_vector())
    assert explainer.surrogate.perceived_context(images).shape == (7, 2)
    assert explainer.surrogate.head_logits(codes).shape == (7, 3)


def test_reconstructions_are_in_the_classifiers_input_space(trained: Trained) -> None:
    explainer, classifier, _ = trained
    images = bars(5, 1, 0.5).images
    redrawn = explainer.reconstruct(images)
    assert redrawn.shape == images.shape
    assert float(redrawn.min()) >= explainer.surrogate.space.low[0] - 1e-6
    assert float(redrawn.max()) <= explainer.surrogate.space.high[0] + 1e-6
    torch.testing.assert_close(explainer.logits(redrawn), classifier.logits(redrawn))


def test_clipping_keeps_what_a_image_can_hold(trained: Trained) -> None:
    explainer, _, _ = trained
    images = bars(5, 1, 0.5).images
    torch.testing.assert_close(explainer.surrogate.clip(images), images)
    (low,), (high,) = explainer.surrogate.space.low, explainer.surrogate.space.high
    torch.testing.assert_close(explainer.surrogate.clip(images + 9), torch.full_like(images, high))
    torch.testing.assert_close(explainer.surrogate.clip(images - 9), torch.full_like(images, low))


def test_decoding_has_gradients_for_codes_and_the_surrogate_is_frozen(trained: Trained) -> None:
    explainer, _, _ = trained
    joined = torch.randn(2, 8, requires_grad=True)
    explainer.logits(explainer.decode(Codes(joined[:, :2], joined[:, 2:5], joined[:, 5:])))[:, 0].sum().backward()
    assert bool(joined.grad.any())
    assert not any(weight.requires_grad for weight in explainer.surrogate.networks.parameters())


def test_context_goes_to_deviations_and_back(trained: Trained) -> None:
    explainer, _, _ = trained
    values = torch.tensor([[4.5, 0.6], [2.0, 0.9]])
    torch.testing.assert_close(explainer.context_values(explainer.standard_context(values)), values)
    data = bars(64, 0, 0.5).context.values.float()
    torch.testing.assert_close(
        explainer.standard_context(data).std(0, correction=0), torch.ones(2), rtol=1e-4, atol=1e-4
    )


def test_a_surrogate_is_loaded_as_it_was(trained: Trained, tmp_path: Path) -> None:
    explainer, classifier, out = trained
    images = bars(5, 1, 0.5).images
    explainer.save(tmp_path)
    for folder in (out, tmp_path):
        again = load(folder, classifier=classifier)
        assert torch.equal(again.reconstruct(images), explainer.reconstruct(images))
        assert torch.equal(again.surrogate.perceived_context(images), explainer.surrogate.perceived_context(images))
        assert (again.surrogate.quality, again.surrogate.options, again.surrogate.sizes, again.surrogate.space) == (
            explainer.surrogate.quality,
            explainer.surrogate.options,
            explainer.surrogate.sizes,
            explainer.surrogate.space,
        )
        assert again.surrogate.finished


def test_loading_leaves_the_global_random_numbers_and_the_users_model_alone(trained: Trained) -> None:
    _, classifier, out = trained
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    load(out, classifier=classifier)
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(weight.requires_grad and weight.grad is None for weight in classifier.module.parameters())


def test_a_surrogate_of_another_classifier_is_refused(trained: Trained) -> None:
    _, _, out = trained
    other = small_cnn()
    nn.init.zeros_(other[-1].bias)
    with pytest.raises(CheckpointError, match="its decisions are not the ones"):
        load(out, classifier=classifier_of(other))


def test_a_folder_without_a_surrogate_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no surrogate\.json"):
        load(tmp_path, classifier=classifier_of(small_cnn()))


def test_preview_and_log_are_written(trained: Trained) -> None:
    _, _, out = trained
    from PIL import Image

    with Image.open(out / "preview.png") as preview:
        assert preview.size == (16 * 16 * 2, 7 * 16 * 2)  # given, redrawn, two contexts low and high, other nuisance


def test_without_context_a_surrogate_has_latents_only(tmp_path: Path) -> None:
    data = bars(64, 0, 0.5)
    explainer = train(classifier_of(small_cnn()), data.images, None, TINY, tmp_path / "run", on_progress=None)
    assert explainer.encode(data.images[:3]).context.shape == (3, 0)
    assert explainer.reconstruct(data.images[:3]).shape == (3, 1, 16, 16)


def test_without_nuisance_everything_is_generated_from_what_the_classifier_sees(tmp_path: Path) -> None:
    data = bars(64, 0, 0.5)
    options = TINY.replace(nuisance_dim=0, noise_inputs=True)
    arguments = {"layers": LOGITS_ONLY, "on_progress": None}
    explainer = train(classifier_of(small_cnn()), data.images, data.context, options, tmp_path / "run", **arguments)
    assert explainer.encode(data.images[:3]).nuisance.shape == (3, 0)
    assert torch.equal(explainer.reconstruct(data.images[:3]), explainer.reconstruct(data.images[:3]))


def test_color_images_from_files_read_in_batches_give_the_surrogate_of_those_in_memory(tmp_path: Path) -> None:
    from PIL import Image

    gray = (bars(24, 0, 0.5).images[:, 0] * 255).round().byte().numpy()
    files = [tmp_path / f"{index:02d}.png" for index in range(24)]
    for file, image in zip(files, gray, strict=True):
        Image.fromarray(image).save(file)
    preprocess = Preprocess((16, 16), mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
    classifier = Classifier(small_cnn(channels=3), preprocess=preprocess)
    context = bars(24, 0, 0.5).context
    first, second = (
        train(classifier, files, context, TINY.replace(max_bytes_in_memory=size), tmp_path / name, on_progress=None)
        for name, size in (("held", 2**30), ("read", 0))
    )
    images = classifier.read(files[:3])
    assert first.surrogate.space.origin == "the classifier's preprocessing"
    assert torch.equal(first.reconstruct(images), second.reconstruct(images))


def test_display_space_is_that_of_the_preprocessing_and_is_undone() -> None:
    preprocess = Preprocess((16, 16), mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
    classifier = Classifier(small_cnn(channels=3), preprocess=preprocess)
    images = torch.randn(4, 3, 16, 16)
    space = DisplaySpace.of(classifier, images)
    shown = preprocess.denormalize(images) * 2 - 1  # cut to what an image can hold
    torch.testing.assert_close(space.to_display(images).clamp(-1, 1), shown, rtol=1e-5, atol=1e-5)
    black = torch.tensor([(0 - m) / s for m, s in zip(preprocess.mean, preprocess.std, strict=True)])
    torch.testing.assert_close(space.to_display(black[:, None, None])[:, 0, 0], -torch.ones(3))
    torch.testing.assert_close(space.from_display(space.to_display(images)), images, rtol=1e-4, atol=1e-5)


def refused(
    tmp_path: Path,
    message: str,
    *,
    images: Tensor | None = None,
    context: ContextTable | None = None,
    network: nn.Module | None = None,
    options: TrainingOptions | str = TINY,
    **arguments: Any,
) -> None:
    data = bars(64, 0, 0.5)
    images = data.images if images is None else images
    context = data.context if context is None else context
    with pytest.raises(PellucidError, match=message):
        train(
            classifier_of(network or small_cnn()),
            images,
            context,
            options,
            tmp_path / "run",
            on_progress=None,
            **arguments,
        )


def test_images_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    refused(tmp_path, "needs square images", images=torch.rand(64, 1, 16, 20))
    refused(tmp_path, "the preset generates 16 x 16", images=torch.rand(64, 1, 32, 32))
    refused(tmp_path, "NaN", images=torch.full((64, 1, 16, 16), float("nan")))
    refused(tmp_path, "is 0 in every image", images=torch.zeros(64, 1, 16, 16))


def test_context_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    context = bars(64, 0, 0.5).context
    column = context.values[:, :1]
    refused(tmp_path, "60 rows for 64 images", context=context.subset(slice(60)))
    refused(tmp_path, "without any variation", context=ContextTable(("a",), torch.ones(64, 1)))
    refused(tmp_path, "copies", context=ContextTable(("a", "b"), torch.cat([column, 2 * column], dim=1)))
    for name in ("class", "decision", "latent 1"):
        refused(tmp_path, f"'{name}' has a name that graphs need", context=ContextTable((name,), column))
    refused(tmp_path, "too little for float32", context=ContextTable(("date",), 1.6e9 + 1e4 * column))
    refused(tmp_path, "too little for float32", context=ContextTable(("share",), 1e-7 * column))


def test_files_are_all_looked_at_before_training_and_stand_in_the_order_of_the_context(tmp_path: Path) -> None:
    from PIL import Image

    files = [tmp_path / f"{index:02d}.png" for index in range(70)]
    for index, file in enumerate(files):
        Image.new("L", (18, 18) if index == 69 else (16, 16), color=index).save(file)
    classifier = Classifier(small_cnn(), preprocess=_as_it_is, class_names=["a", "b", "c"], input_size=(1, 16, 16))
    context = ContextTable(("a",), bars(70, 0, 0.5).context.values[:, :1], tuple(files))
    with pytest.raises(PellucidError, match=r"69\.png: .*the preset generates 16 x 16"):
        train(classifier, files, context, TINY, tmp_path / "run", on_progress=None)
    with pytest.raises(PellucidError, match=r"row 0 of the context table is that of .*00\.png, and image 0 is .*68"):
        train(classifier, files[:69][::-1], context.subset(slice(69)), TINY, tmp_path / "run", on_progress=None)


def _as_it_is(image: Image.Image) -> Tensor:
    import numpy as np

    return torch.from_numpy(np.asarray(image.convert("L"), dtype="float32")[None] / 255)


def test_one_latent_is_enough(tmp_path: Path) -> None:
    data = bars(64, 0, 0.5)
    explainer = train(
        classifier_of(small_cnn()), data.images, data.context, TINY.replace(latent_dim=1), tmp_path / "run"
    )
    assert explainer.encode(data.images[:2]).latent.shape == (2, 1)


def test_a_classifier_without_maps_is_not_a_black_box_once_loaded_again(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(256, 20), nn.ReLU(), nn.Linear(20, 3))
    classifier, data = classifier_of(network), bars(64, 0, 0.5)
    explainer = train(classifier, data.images, data.context, TINY, tmp_path / "run", layers=[], on_progress=None)
    assert (explainer.surrogate.features.length, explainer.surrogate.features.black_box) == (20, False)
    again = load(tmp_path / "run", classifier=classifier)
    assert again.surrogate.features.length == 20
    images = data.images[:2].double()  # numpy's own kind
    torch.testing.assert_close(again.encode(images).to_vector(), explainer.encode(images.float()).to_vector())


def test_too_few_images_are_refused(tmp_path: Path) -> None:
    few = bars(12, 0, 0.5)
    refused(tmp_path, "too few", images=few.images, context=few.context)


def test_a_classifier_that_always_answers_the_same_is_refused(tmp_path: Path) -> None:
    constant = small_cnn()
    nn.init.zeros_(constant[-1].weight)
    refused(tmp_path, "nothing to explain", network=constant)


def test_a_re_renderer_must_return_images_and_context(tmp_path: Path) -> None:
    def careless(images: Tensor, random: torch.Generator) -> tuple[Tensor, Tensor]:
        return images[:-1], torch.zeros(len(images), 2)

    refused(tmp_path, "as many images", rerender=careless)


def test_a_gain_must_name_a_context(tmp_path: Path) -> None:
    refused(tmp_path, "brightness_context='hue' is not a context", options=TINY.replace(brightness_context="hue"))
    assert not list(tmp_path.rglob("run.json"))  # so that the same folder takes the command once it is mended


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resolution": 48}, "resolution 48"),
        ({"batch_size": 6}, "batch_size 6"),
        ({"warmup_steps": 99}, "warmup_steps 99"),
        ({"precision": "float16"}, "precision"),
        ({"latent_dim": 0}, "latent_dim >= 1"),
        ({"pixels": 1.0}, "no training option 'pixels'"),
        ({"log_every": 0}, "log_every 0 is not 1 or more"),
        ({"generator_lr": -1.0}, "generator_lr -1.0 is not above 0"),
        ({"real_fraction": 2.0}, "real_fraction 2.0 is not between 0 and 1"),
        ({"num_augmented": -1}, "num_augmented -1 is negative"),
    ],
)
def test_options_that_make_no_sense_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(PellucidError, match=message):
        TINY.replace(**changes)


def test_options_survive_json() -> None:
    assert from_record(TrainingOptions, to_record(TINY), source="file") == TINY


def test_an_unknown_preset_is_named(tmp_path: Path) -> None:
    refused(tmp_path, "no preset 'cpu-33'", options="cpu-33")
