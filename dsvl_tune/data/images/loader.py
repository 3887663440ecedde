"""Load an image for encoding: cached features if available, the padded image otherwise.

Cache keys are made of an image's content, never of its path, and of everything that turns it into
vision inputs.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

import PIL
from PIL import Image
from torch import Tensor

from dsvl_tune.core.family import Processor
from dsvl_tune.core.storage.tensor_cache import TensorCache
from dsvl_tune.core.types import CachedFeatures, EncodedImage, ImageRef, VisionInput
from dsvl_tune.data.images import load
from dsvl_tune.data.images.load import load_image


@dataclass
class ImageLoader:
    """Loads the images of conversations, each distinct one once.

    Attributes:
        feature_cache: where frozen features are found and will be added; None without.
        image_cache: where padded images are kept, see `padded_image_cache`; None without.
        loaded: images loaded so far by name and token count.
    """

    feature_cache: TensorCache | None = None
    image_cache: TensorCache | None = None
    loaded: dict[tuple[str, int], EncodedImage] = field(default_factory=dict)

    def fresh(self) -> ImageLoader:
        """The same loader without the images that this one has loaded."""
        return replace(self, loaded={})

    def load(
        self, ref: ImageRef, processor: Processor, *, tokens: int, images: int, source: str
    ) -> EncodedImage:
        """One image.

        Args:
            ref: what to load.
            processor: of the checkpoint.
            tokens: token ids that it occupies in the row. Together with the content they determine
                its vision inputs.
            images: number of images in the conversation.
            source: file and row that show it, for the error.

        Raises:
            UserError: as `load_image`.
        """
        identity = (ref.name, tokens)
        if identity not in self.loaded:
            self.loaded[identity] = self._load(ref, processor, tokens, images, source)
        return self.loaded[identity]

    def _load(
        self, ref: ImageRef, processor: Processor, tokens: int, images: int, source: str
    ) -> EncodedImage:
        key = ""
        if self.feature_cache is not None or self.image_cache is not None:
            ref, key = read_with_key(ref, tokens, processor, source)
        if self.feature_cache is not None:
            features = self.feature_cache.get(key)
            if features is not None:
                return CachedFeatures(ref.name, tokens, features)
        padded = self._padded_image(ref, processor, images, source, key)
        return VisionInput(
            ref.name,
            tokens,
            processor.family.vision_input(padded, processor),
            cache_key="" if self.feature_cache is None else key,
        )

    def _padded_image(
        self, ref: ImageRef, processor: Processor, images: int, source: str, key: str
    ) -> dict[str, Tensor]:
        """The image as `Family.pad_image` makes it, from the image cache if there is one.

        By name [C, ...] uint8.
        """
        if self.image_cache is not None:
            cached = self.image_cache.get(key)
            if cached is not None:
                return cached
        image = load_image(ref, source)
        padded = processor.family.pad_image(image, processor, images)
        if self.image_cache is not None:
            self.image_cache.put(key, padded)
        return padded


def read_with_key(
    ref: ImageRef, tokens: int, processor: Processor, source: str
) -> tuple[ImageRef, str]:
    """Read an image's bytes and compute its cache key.

    The bytes are returned with the key, so a file that changes in between cannot mix two images.

    Args:
        ref: the image.
        tokens: token ids that it occupies in the row.
        processor: of the checkpoint.
        source: file and row that show it, for the error.

    Returns:
        The reference with its bytes as content (with the decoded image, if it is one in memory),
        and the key.

    Raises:
        UserError: the image cannot be read. Files are not decoded here.
    """
    if isinstance(ref.content, Image.Image):
        picture = load_image(ref, source)
        ref = replace(ref, content=picture)
        content = f"{picture.size}".encode() + picture.tobytes()
    else:
        content = read_bytes(ref, source)
        ref = replace(ref, content=content)
    digest = hashlib.sha256(f"{processing_digest(processor)} {tokens} ".encode())
    digest.update(content)
    return ref, digest.hexdigest()


def read_bytes(ref: ImageRef, source: str) -> bytes:
    """The bytes of an image that is a file, encoded bytes or a URL."""
    content = ref.content
    if isinstance(content, str):
        content = load.from_network(ref, load.describe(ref, source))
    if isinstance(content, Path):
        if not content.is_file():
            load_image(ref, source)  # raises an error that says why
        content = content.read_bytes()
    assert isinstance(content, bytes)
    return content


def processing_digest(processor: Processor) -> str:
    """Changes with the image settings, with the code that applies them, and with Pillow's version.

    Pillow's decoders and its resizing differ between versions.
    """
    generic = f"{load_code_digest()} {PIL.__version__}"
    settings = f"{processor.family.image_digest(processor)} {generic}"
    return hashlib.sha256(settings.encode()).hexdigest()


@lru_cache
def load_code_digest() -> str:
    """Of the code that decodes images."""
    return hashlib.sha256(Path(load.__file__).read_bytes()).hexdigest()
