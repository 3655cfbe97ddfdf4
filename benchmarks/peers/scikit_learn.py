"""scikit-learn: `MLPClassifier`, which computes with NumPy and SciPy."""

from sklearn.neural_network import MLPClassifier

from benchmarks import w1
from benchmarks.data import Mnist
from benchmarks.peers import Peer

LIBRARIES = ("scikit-learn",)


def mlp(mnist: Mnist, seed: int) -> Peer:
    """`partial_fit` trains one epoch, in a new order each time, with its Adam and without its weight decay."""
    _, *hidden, classes = w1.SIZES
    model = MLPClassifier(
        hidden, alpha=0.0, batch_size=w1.BATCH_SIZE, learning_rate_init=w1.LEARNING_RATE, random_state=seed
    )

    def train_epoch() -> None:
        model.partial_fit(mnist.train_images, mnist.train_labels, classes=range(classes))

    return Peer(train_epoch, lambda images: model.predict_proba(images))
