"""Images of different token counts: tiles, marks around them, tiling by the number of images.

A family made up for this test, with the demands of Janus (begin and end marks) and DeepSeek-VL2
(tiles; a conversation with more than two images has none) on a small DeepSeek-VL.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageOps
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from dsvl_tune import families
from dsvl_tune.core.family import Plan, Processor, Shapes
from dsvl_tune.core.storage.tensor_cache import TensorCache
from dsvl_tune.core.types import Batch, Conversation, ImageRef, Turn, VisionInput
from dsvl_tune.data.encoding.batches import make_batch, make_prompts, make_sample
from dsvl_tune.data.encoding.collate import collate, normalize_images
from dsvl_tune.data.encoding.tokenize import encode, tokenize
from dsvl_tune.data.images.loader import ImageLoader
from dsvl_tune.data.images.missing_features import MissingImages, image_keys
from dsvl_tune.evaluation.generation.generate import generate_ids
from dsvl_tune.export.verify import inputs_of
from dsvl_tune.families import open_checkpoint
from dsvl_tune.families.deepseek_vl.family import DeepSeekVL
from dsvl_tune.models.checkpoint.load import create_model
from dsvl_tune.report.data_preview import preview_page
from dsvl_tune.training.feature_cache import FeatureExtractor
from dsvl_tune.training.objectives.supervised import supervised_loss

SIDE = 16
TOKENS = 8
"""Visual tokens of a tile."""
BEGIN, END = 20, 21
"""Ordinary tokens of the golden vocabulary, as Janus' marks are."""
MOST_TILED = 2


class TiledFamily(DeepSeekVL):
    """A view of the whole picture, then tiles of `SIDE` px, one or two in each direction.

    Each tile has `TOKENS` visual tokens, each row of tiles one more.
    """

    needs_image_size = True

    def grid(self, size: tuple[int, int], images: int) -> tuple[int, int]:
        """Tiles (wide, high); (0, 0) for the whole view alone."""
        if images > MOST_TILED:
            return 0, 0
        return min(size[0] // SIDE, 2), min(size[1] // SIDE, 2)

    def image_token_ids(
        self, processor: Processor, size: tuple[int, int] | None, images: int
    ) -> list[int]:
        assert size is not None
        wide, high = self.grid(size, images)
        visual = TOKENS + high * (wide * TOKENS + 1)
        return [BEGIN, *[processor.image_token_id] * visual, END]

    def pad_image(self, image: Image.Image, processor: Processor, images: int) -> dict[str, Tensor]:
        wide, high = self.grid(image.size, images)
        tiles = [ImageOps.pad(image, (SIDE, SIDE))]
        canvas = ImageOps.pad(image, (max(wide, 1) * SIDE, max(high, 1) * SIDE))
        for row, column in itertools.product(range(high), range(wide)):
            left, top = column * SIDE, row * SIDE
            tiles.append(canvas.crop((left, top, left + SIDE, top + SIDE)))
        levels = [torch.tensor(list(tile.tobytes()), dtype=torch.uint8) for tile in tiles]
        crops = torch.stack(levels).view(-1, SIDE, SIDE, 3).permute(0, 3, 1, 2).contiguous()
        return {"tiles": crops, "grid": torch.tensor([[wide, high]], dtype=torch.uint8)}

    def padded_shapes(self, processor: Processor) -> Shapes:
        return {"tiles": (5, 3, SIDE, SIDE), "grid": (1, 2)}

    def vision_input(self, padded: Mapping[str, Tensor], processor: Processor) -> dict[str, Tensor]:
        return {"tiles": padded["tiles"], "grid": padded["grid"].long()}

    def normalize(
        self, vision_inputs: Mapping[str, Tensor], processor: Processor
    ) -> dict[str, Tensor]:
        inputs = dict(vision_inputs)
        if "tiles" in inputs and inputs["tiles"].dtype == torch.uint8:
            inputs["tiles"] = inputs["tiles"].float() / 255
        return inputs

    def gray_levels(
        self, vision_inputs: Mapping[str, Tensor], processor: Processor
    ) -> dict[str, Tensor]:
        return {"tile": vision_inputs["tiles"] * 255}

    def image_digest(self, processor: Processor) -> str:
        return f"tiles of {SIDE}"

    def encode_images(
        self, model: PreTrainedModel, vision_inputs: Mapping[str, Tensor]
    ) -> Sequence[Tensor]:
        features = self.compute_features(model, {"tiles", "grid"}, vision_inputs)
        together = {name: torch.cat([one[name] for one in features]) for name in ("tiles", "grid")}
        return self.finish_images(model, together)

    def forward_inputs(
        self, vision_inputs: Mapping[str, Tensor], image_index: Tensor
    ) -> dict[str, Tensor]:
        starts = self.split(vision_inputs["grid"])
        tiles = [vision_inputs["tiles"][starts[i] : starts[i + 1]] for i in image_index.tolist()]
        return {"tiles": torch.cat(tiles), "grid": vision_inputs["grid"][image_index]}

    def split(self, grid: Tensor) -> list[int]:
        """Where the tiles of each image begin, and the end."""
        counts = [1 + int(wide * high) for wide, high in grid.tolist()]
        return [0, *itertools.accumulate(counts)]

    def cacheable_features(self, plan: Plan) -> dict[str, set[str]]:
        return {"tiles": {"siglip"}, "grid": {"siglip"}}

    def feature_shapes(self, config: PretrainedConfig, names: set[str]) -> Shapes:
        return {"tiles": (5, TOKENS, config.text_config.hidden_size), "grid": (1, 2)}

    def compute_features(
        self, model: PreTrainedModel, names: set[str], vision_inputs: Mapping[str, Tensor]
    ) -> list[dict[str, Tensor]]:
        width = model.config.text_config.hidden_size
        draw = torch.Generator().manual_seed(3)
        project = torch.randn(3 * SIDE * SIDE, TOKENS * width, generator=draw) / SIDE
        tokens = (vision_inputs["tiles"].flatten(1) @ project).view(-1, TOKENS, width)
        grid = vision_inputs["grid"]
        starts = self.split(grid)
        return [
            {
                "tiles": tokens[starts[i] : starts[i + 1]],
                "grid": grid[i : i + 1].to(tokens.dtype),
            }
            for i in range(len(grid))
        ]

    def finish_images(
        self, model: PreTrainedModel, features: Mapping[str, Tensor]
    ) -> Sequence[Tensor]:
        starts = self.split(features["grid"])
        images = []
        for i, (wide, high) in enumerate(features["grid"].long().tolist()):
            whole, *tiles = features["tiles"][starts[i] : starts[i + 1]]
            pieces = [whole]
            for row in range(high):
                pieces += tiles[row * wide : (row + 1) * wide]
                pieces.append(torch.ones_like(whole[:1]))
            images.append(torch.cat(pieces))
        return images


@pytest.fixture
def model(
    processor: Processor, hybrid_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> PreTrainedModel:
    monkeypatch.setattr(families, "FAMILIES", [processor.family])
    return create_model(open_checkpoint(hybrid_checkpoint))


@pytest.fixture
def processor(hybrid_checkpoint: Path) -> Processor:
    return replace(open_checkpoint(hybrid_checkpoint).processor, family=TiledFamily())


def picture(width: int, height: int) -> ImageRef:
    draw = torch.Generator().manual_seed(width * 100 + height)
    levels = torch.randint(0, 255, (height, width, 3), dtype=torch.uint8, generator=draw)
    return ImageRef(Image.fromarray(levels.numpy()), f"{width} x {height}")


SMALL, WIDE, LARGE = picture(10, 9), picture(40, 20), picture(33, 47)
VISUAL = {SMALL.name: 8, WIDE.name: 8 + 17, LARGE.name: 8 + 2 * 17}


def ask(*images: ImageRef, question: str = "What?", answer: str = "Two, or three.") -> Conversation:
    turns = (Turn("user", (*images, question)), Turn("assistant", (answer,)))
    return Conversation(turns, question, "")


ROWS = [
    [ask(LARGE, SMALL), ask(LARGE, SMALL, question="How many?")],
    [ask(WIDE, question="And this, by the way?")],
    [ask(WIDE, LARGE, SMALL)],
    [ask(question="Hello")],
]


def test_every_image_occupies_its_own_tokens(processor: Processor) -> None:
    for images in ((SMALL,), (WIDE, LARGE), (LARGE, LARGE), (SMALL, WIDE, LARGE)):
        sample = encode(ask(*images), processor)
        assert len(sample.image_spans) == len(images)
        for ref, image, (start, stop) in zip(
            images, sample.images, sample.image_spans, strict=True
        ):
            visual = VISUAL[ref.name] if len(images) <= MOST_TILED else TOKENS
            ids = sample.input_ids[start:stop]
            assert ids == [BEGIN, *[processor.image_token_id] * visual, END]
            assert image.tokens == len(ids)
        assert sample.input_ids.count(BEGIN) == len(images)


def loss_of(model: PreTrainedModel, batch: Batch, processor: Processor) -> float:
    return supervised_loss(model, normalize_images(batch, processor)).loss.item()


@pytest.mark.parametrize("pack_tokens", [None, 200, 1000])
def test_a_batch_equals_its_conversations_alone(
    processor: Processor, model: PreTrainedModel, pack_tokens: int | None
) -> None:
    """One picture is cut in two ways here: it is encoded twice, and no slot gets the other one."""
    batch = make_batch(ROWS, processor, None, "error", pack_tokens)
    assert batch.images == 5
    assert batch.vision_inputs["grid"].tolist() == [[2, 2], [0, 0], [2, 1], [0, 0], [0, 0]]
    assert len(batch.vision_inputs["tiles"]) == 5 + 1 + 3 + 1 + 1
    alone = 0.0
    for conversation in itertools.chain.from_iterable(ROWS):
        one = collate([encode(conversation, processor)], processor.pad_id)
        alone += loss_of(model, one, processor)
    assert loss_of(model, batch, processor) == pytest.approx(alone, rel=1e-5)


def test_generation_and_plain_inputs_follow_the_slots(
    processor: Processor, model: PreTrainedModel
) -> None:
    conversations = [row[0] for row in ROWS]
    batch = make_prompts(list(enumerate(conversations)), processor, None, "error")
    batch = normalize_images(batch, processor)
    ids = generate_ids(model, batch, 4)
    for row, conversation in enumerate(conversations):
        one = make_prompts([(0, conversation)], processor, None, "error")
        alone = generate_ids(model, normalize_images(one, processor), 4)[0]
        assert ids[row, : len(alone)].tolist() == alone.tolist()
    plain = inputs_of(model, batch)
    assert plain["grid"].tolist() == [[2, 2], [0, 0], [2, 1], [0, 0], [0, 0], [0, 0]]
    assert len(plain["tiles"]) == 5 + 1 + 3 + 1 + 1 + 1


def test_truncation_counts_the_tiles_of_what_is_left(processor: Processor) -> None:
    """Without its last pair the conversation has two images, which are then cut into tiles."""
    pairs = [ask(LARGE), ask(LARGE, question="And?"), ask(WIDE, question="Or?")]
    turns = tuple(itertools.chain.from_iterable(pair.turns for pair in pairs))
    row = replace(pairs[0], turns=turns)
    lengths = [
        len(tokenize(replace(row, turns=turns[:kept]), processor, max_tokens=999).input_ids)
        for kept in (2, 4, 6)
    ]
    assert lengths[1] > lengths[2] > lengths[0]
    for limit, kept in ((lengths[2], 6), (lengths[2] - 1, 2), (lengths[0], 2)):
        found = tokenize(row, processor, "training", limit, "truncate")
        assert found == tokenize(replace(row, turns=turns[:kept]), processor)


def test_the_caches_keep_every_number_of_tiles(
    processor: Processor, model: PreTrainedModel, tmp_path: Path
) -> None:
    family = processor.family
    shapes = family.padded_shapes(processor)
    image_cache = TensorCache(tmp_path / "images", "one", shapes, torch.uint8, 1 << 30)
    names = {"tiles", "grid"}
    shapes = family.feature_shapes(model.config, names)
    features = TensorCache(tmp_path / "features", "one", shapes, torch.float32, 1 << 30)
    producers = {name: {"siglip"} for name in ("tiles", "grid")}
    extractor = FeatureExtractor(model, family, producers, features)

    wanted = loss_of(model, make_batch(ROWS, processor, None, "error"), processor)

    def loss_with(loader: ImageLoader) -> float:
        batch = normalize_images(
            make_batch(ROWS, processor, None, "error", loader=loader), processor
        )
        batch = extractor.with_features(batch, nullcontext())
        assert not batch.vision_inputs
        return supervised_loss(model, batch).loss.item()

    loader = ImageLoader(features, image_cache)
    keys = [key for row in image_keys(ROWS, processor, features, "") for key, _ in row]
    missing = MissingImages(ROWS, processor, features)
    found = [image for row in range(len(ROWS)) for image in missing[row]]
    assert len(set(keys)) == 5 and [image.cache_key for image in found] == keys

    assert loss_with(loader) == pytest.approx(wanted, rel=1e-5)
    assert all(features.has(key) and image_cache.has(key) for key in keys)
    assert loss_with(loader) == pytest.approx(wanted, rel=1e-5)  # of features
    assert loss_with(ImageLoader(None, image_cache)) == pytest.approx(wanted, rel=1e-5)
    missing = MissingImages(ROWS, processor, features)
    assert not any(missing[row] for row in range(len(ROWS)))


def test_the_preview_shows_every_tile(processor: Processor) -> None:
    sample = make_sample(ROWS[0], processor, None, "error")
    text = preview_page([sample], processor, "rows")
    assert f"image 1: {VISUAL[LARGE.name] + 2} tokens" in text
    assert f"image 2: {VISUAL[SMALL.name] + 2} tokens" in text
    assert text.count("<figure>") == 5 + 1
    assert text.count('class="image" title') == 2
    assert all(isinstance(image, VisionInput) for image in sample.images)
