"""Arrays as a set that TFDS has prepared, in their own order and without TensorFlow."""

import io
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image


def prepare_arrays(name: str, arrays: tuple[np.ndarray, ...], folder: str | Path) -> Path:
    """Writes training images, training labels, test images and test labels as ``mnist`` or a set like it."""
    train_images, train_labels, test_images, test_labels = arrays
    mnist_like = tfds.builder_cls(name)

    def examples(images, labels):
        for index, (image, label) in enumerate(zip(images, labels, strict=True)):
            png = io.BytesIO()
            Image.fromarray(image[..., 0]).save(png, "PNG")
            yield index, {"image": png.getvalue(), "label": int(label)}

    class ArrayBuilder(mnist_like, skip_registration=True):
        name = mnist_like.name

        def _info(self):
            known = super()._info()
            keys = known.supervised_keys
            return tfds.core.DatasetInfo(
                builder=self, features=known.features, supervised_keys=keys, disable_shuffling=True
            )

        def _split_generators(self, dl_manager):
            return {"train": examples(train_images, train_labels), "test": examples(test_images, test_labels)}

    builder = ArrayBuilder(data_dir=str(folder))
    tfds.disable_progress_bar()
    builder.download_and_prepare(file_format="array_record")
    return Path(builder.data_path)
