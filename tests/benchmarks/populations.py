"""Studies in which the answer is known: how two methods' runs answer examples, and what they score on endless ones.

Effects of the seed (in part common to both methods), of the example (the same) and of the pair.  Choices between two
classes come from a latent margin, scores of sentence pairs from a slope and noise.
"""

import dataclasses
import math

import numpy as np
import scipy.stats

from fjt.core.ragged import Ragged
from fjt.data import squad
from fjt.tasks.entities import ENTITIES
from fjt.tasks.kinds import find_problem
from fjt.tasks.masked_lm import MASKED_LM
from fjt.tasks.question_answering import QUESTION_ANSWERING
from tests.scores import pseudo_values

NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(30)
WEIGHTS = WEIGHTS / WEIGHTS.sum()


@dataclasses.dataclass(frozen=True)
class Choices:
    """Two methods that choose between two classes; `example`, `method` and `noise` are parts of a variance of 1."""

    margins: tuple  # of each method, in sd of the latent margin
    share: float  # of class 1
    seed: float = 0.08  # sd over seeds of the margin
    bias: float = 0.1  # sd over seeds of the leaning to class 1
    example: float = 0.6
    method: float = 0.1
    noise: float = 0.3
    source: float = 0.0  # the part of `example` that the examples of a source share, six on average
    collapse: float = 0.0  # the share of runs that predict class 1 throughout
    odd: int = 0  # examples for which these runs predict class 0
    metrics: tuple = ("accuracy", "mcc", "f1", "macro_f1")

    def draw_examples(self, rng, m):
        """(i[m] source or None, i64[m] label, f64[2, 1, m] what an example adds to the margin of each method)."""
        source = rng.integers(0, m // 6, m)
        own, common_part = rng.normal(size=(2, m))
        effect = math.sqrt(1 - self.source) * own + math.sqrt(self.source) * common_part[source]
        effect = math.sqrt(self.example) * effect + math.sqrt(self.method) * rng.normal(size=(2, 1, m))
        return source if self.source else None, np.int64(rng.random(m) < self.share), effect

    def draw_runs(self, rng, n, label, effect):
        """i64[2, n, m]: what n new seeds of each method predict."""
        margin = np.float64(self.margins)[:, None, None] + self.seed * over_seeds(rng, n)
        latent = (2 * label - 1) * margin + self.bias * over_seeds(rng, n) + effect
        latent = latent + math.sqrt(self.noise) * rng.standard_normal((2, n, len(label)))
        predicted = np.int64(latent > 0)
        gone = rng.random((2, n)) < self.collapse
        predicted[gone] = 1
        for method, run in zip(*np.nonzero(gone), strict=True):
            predicted[method, run, rng.choice(len(label), self.odd, replace=False)] = 0
        return predicted

    def scores(self, predicted, label, metrics):
        """{metric: f64[...]} of predictions [..., m]."""
        right = predicted == label
        return choice_scores(right[..., label == 1].mean(-1), right[..., label == 0].mean(-1), label.mean())

    def pseudo_values(self, metric, predicted, label):
        """f64[n, m] of n runs' predictions."""
        return pseudo_values(metric, predicted, label)

    def truth(self):
        """{metric: f64[2]}: what a new seed that does not collapse scores on endless new examples, expected."""
        margin = np.float64(self.margins)[:, None, None] + self.seed * NODES[:, None]
        rates = (scipy.stats.norm.cdf(margin + side * self.bias * NODES) for side in (1, -1))
        found = choice_scores(*rates, self.share)
        return {name: np.einsum("kij,i,j->k", value, WEIGHTS, WEIGHTS) for name, value in found.items()}


@dataclasses.dataclass(frozen=True)
class Scores:
    """Two methods that score sentence pairs as STS-B's: labels in fifths, a slope and noise that seeds change."""

    noises: tuple = (0.54, 0.58)  # sd of what the label does not explain, of each method
    seed: float = 0.05  # sd over seeds of the slope about 1, and of the noise's logarithm
    example: float = 0.7  # parts of the noise's variance
    method: float = 0.1
    metrics: tuple = ("pearson", "spearman", "mse")

    def draw_examples(self, rng, m):
        effect = math.sqrt(self.example) * rng.normal(size=m) + math.sqrt(self.method) * rng.normal(size=(2, 1, m))
        return None, np.round(5 * rng.normal(size=m)) / 5, effect

    def draw_runs(self, rng, n, label, effect):
        slope, scale = 1 + self.seed * over_seeds(rng, n), np.exp(self.seed * over_seeds(rng, n))
        own = math.sqrt(1 - self.example - self.method) * rng.standard_normal((2, n, len(label)))
        return slope * label + np.float64(self.noises)[:, None, None] * scale * (effect + own)

    def scores(self, predicted, label, metrics):
        found = {"pearson": correlation(predicted, label), "mse": ((predicted - label) ** 2).mean(-1)}
        if "spearman" in metrics:
            found["spearman"] = correlation(*(scipy.stats.rankdata(v, axis=-1) for v in (predicted, label)))
        return found

    def pseudo_values(self, metric, predicted, label):
        return pseudo_values(metric, predicted, label)

    def truth(self):
        """Spearman's over endless pairs is the correlation of places: a label's own, and P(another score is below)."""
        values = np.arange(-30, 31) / 5
        share = np.diff(scipy.stats.norm.cdf(np.arange(-30.5, 31) / 5))
        place = np.cumsum(share) - share / 2 - 0.5
        slope = 1 + self.seed * NODES[:, None]
        scale = np.float64(self.noises)[:, None, None] * np.exp(self.seed * NODES)
        below = scipy.stats.norm.cdf((slope / scale)[..., None, None] * (values[:, None] - values) / math.sqrt(2))
        spread = slope**2 * np.sum(share * values**2)
        found = {
            "pearson": np.sqrt(spread / (spread + scale**2)),
            "spearman": np.einsum("...kl,k,l->...", below, share * place, share) / np.sqrt(share @ place**2 / 12),
            "mse": (slope - 1) ** 2 * np.sum(share * values**2) + scale**2,
        }
        return {name: np.einsum("kij,i,j->k", value, WEIGHTS, WEIGHTS) for name, value in found.items()}


@dataclasses.dataclass(frozen=True)
class Sentences(Choices):
    """Two methods that find entities of one word in sentences; `source` is what a sentence's words have in common.

    A share of the words are entities.  Scores are resampled by sentence.
    """

    words: int = 8  # of each sentence
    metrics: tuple = ("entity_f1",)

    def draw_examples(self, rng, m):
        """As for `Choices`, of the words of m sentences."""
        own, each = rng.normal(size=m * self.words), np.repeat(rng.normal(size=m), self.words)
        effect = math.sqrt(1 - self.source) * own + math.sqrt(self.source) * each
        effect = math.sqrt(self.example) * effect + math.sqrt(self.method) * rng.normal(size=(2, 1, len(own)))
        return None, np.int64(rng.random(len(own)) < self.share), effect

    def scores(self, predicted, label, metrics):
        return {"entity_f1": super().scores(predicted, label, metrics)["f1"]}

    def pseudo_values(self, metric, predicted, label):
        offsets = np.arange(0, len(label) + 1, self.words)
        return ENTITIES.pseudo_values(metric, [Ragged(run, offsets) for run in predicted], Ragged(label, offsets))

    def truth(self):
        return {"entity_f1": super().truth()["f1"]}


@dataclasses.dataclass(frozen=True)
class Answers(Choices):
    """Two methods that answer questions: exactly, by one of two words, or by another one; `source` is an article."""

    part: float = 0.4  # sd of the latent margin below an exact answer in which one word of two is found
    metrics: tuple = ("f1",)

    def draw_runs(self, rng, n, label, effect):
        """i64[2, n, m]: 2 for an exact answer, 1 for one word, 0 for another one."""
        margin = np.float64(self.margins)[:, None, None] + self.seed * over_seeds(rng, n)
        latent = margin + self.bias * over_seeds(rng, n) + effect
        latent = latent + math.sqrt(self.noise) * rng.standard_normal((2, n, len(label)))
        return np.int64(latent > 0) + np.int64(latent > -self.part)

    def scores(self, predicted, label, metrics):
        return {"f1": F1_OF[predicted].mean(-1)}

    def pseudo_values(self, metric, predicted, label):
        runs = [ANSWERS[run] for run in predicted]
        return QUESTION_ANSWERING.pseudo_values(metric, runs, np.repeat(ANSWERS[2:], len(label)))

    def truth(self):
        margin = np.float64(self.margins)[:, None, None] + self.seed * NODES[:, None] + self.bias * NODES
        exact, some = (scipy.stats.norm.cdf(margin + shift) for shift in (0, self.part))
        found = F1_OF[2] * exact + F1_OF[1] * (some - exact)
        return {"f1": np.einsum("kij,i,j->k", found, WEIGHTS, WEIGHTS)}


@dataclasses.dataclass(frozen=True)
class Documents:
    """Two methods that predict the masked tokens of documents, some of which are easier than others."""

    levels: tuple = (-3.0, -2.95)  # of each method, the mean log-probability of a true token
    seed: float = 0.03  # sd over seeds of it
    example: float = 1.0  # sd over documents
    method: float = 0.15  # sd over documents of the difference of two methods
    noise: float = 0.2  # of a run and document
    slots: float = 8.0  # on average, one more, of a document
    metrics: tuple = ("perplexity",)

    def draw_examples(self, rng, m):
        """(None, i64[m] slots, f64[2, 1, m] what a document adds to the log-probability of each method)."""
        effect = self.example * rng.normal(size=m) + self.method * rng.normal(size=(2, 1, m))
        return None, 1 + rng.poisson(self.slots, m), effect

    def draw_runs(self, rng, n, label, effect):
        """f64[2, n, m]: the mean log-probability of the true tokens of a document by n new seeds of each method."""
        level = np.array(self.levels)[:, None, None] + self.seed * over_seeds(rng, n)
        return level + effect + self.noise * rng.standard_normal((2, n, len(label)))

    def scores(self, predicted, label, metrics):
        return {"perplexity": np.exp(-(predicted @ label) / label.sum())}

    def pseudo_values(self, metric, predicted, label):
        offsets = np.concatenate([[0], np.cumsum(label)])
        runs = [Ragged(np.repeat(run[:, None], label, axis=0).repeat(2, axis=1), offsets) for run in predicted]
        return MASKED_LM.pseudo_values(metric, runs, Ragged(np.zeros(offsets[-1], np.int32), offsets))

    def truth(self):
        return {"perplexity": np.exp(-np.array(self.levels) + self.seed**2 / 2)}


@dataclasses.dataclass(frozen=True)
class Several:
    """Two methods on two tasks at once: two of three examples are choices, the others pairs with scores."""

    choices: Choices = Choices(margins=(0.524, 0.58), share=0.5)
    grades: Scores = Scores()
    metrics: tuple = ("mean", "topic.accuracy", "grade.pearson")

    def draw_examples(self, rng, m):
        """(None, f64[m, 2] task and label, (what an example adds, of each task))."""
        (_, ids, one), (_, scores, other) = (
            part.draw_examples(rng, size) for part, size in ((self.choices, 2 * m // 3), (self.grades, m - 2 * m // 3))
        )
        task = np.repeat([0, 1], (len(ids), len(scores)))
        return None, np.stack([task, np.concatenate([ids, scores])], axis=-1), (one, other)

    def draw_runs(self, rng, n, label, effect):
        """f64[2, n, m, 2]: the task of each example, and what n new seeds of each method predict there."""
        ids, scores = (label[label[:, 0] == task, 1] for task in (0, 1))
        found = [self.choices.draw_runs(rng, n, np.int64(ids), effect[0])]
        found.append(self.grades.draw_runs(rng, n, scores, effect[1]))
        values = np.concatenate(found, axis=-1)
        return np.stack([np.broadcast_to(label[:, 0], values.shape), values], axis=-1)

    def scores(self, predicted, label, metrics):
        ids, scores = (label[:, 0] == task for task in (0, 1))
        accuracy = (predicted[..., ids, 1] == label[ids, 1]).mean(-1)
        pearson = correlation(predicted[..., scores, 1], label[scores, 1])
        return {"mean": (accuracy + pearson) / 2, "topic.accuracy": accuracy, "grade.pearson": pearson}

    def pseudo_values(self, metric, predicted, label):
        return SEVERAL.pseudo_values(metric, list(predicted), label)

    def truth(self):
        accuracy, pearson = self.choices.truth()["accuracy"], self.grades.truth()["pearson"]
        return {"mean": (accuracy + pearson) / 2, "topic.accuracy": accuracy, "grade.pearson": pearson}


SEVERAL = find_problem("topic:classification:2:accuracy+grade:regression:1:pearson")
ANSWERS, F1_OF = squad.labels_of([[["late"]], [["dark"]], [["dark blue"]]]), np.array([0, 2 / 3, 1])

HARD = Choices(margins=(0.524, 0.58), share=0.5)
EASY = Choices(margins=(1.282, 1.35), share=0.68)
FEW = {"metrics": ("accuracy", "mcc")}
SOURCES = dataclasses.replace(HARD, seed=0.03, bias=0.03, example=0.8, noise=0.1, source=1.0, **FEW)
SHAPES = {
    "accuracy 0.70": (HARD, (277, 1500)),
    "accuracy 0.90": (EASY, (277, 1500)),
    "accuracy 0.98": (dataclasses.replace(EASY, margins=(2.05, 2.12)), (277,)),
    "accuracy 0.90, equal seeds": (dataclasses.replace(EASY, seed=0.0, bias=0.0, **FEW), (277,)),
    "accuracy 0.70, equal examples": (Choices((0.524, 0.524), 0.5, example=0.0, method=0.0, noise=1.0, **FEW), (277,)),
    "accuracy 0.70, one run in ten collapses": (dataclasses.replace(HARD, collapse=0.1, **FEW), (277,)),
    "accuracy 0.90, one run in twenty says one thing but once": (
        dataclasses.replace(EASY, collapse=0.05, odd=1, **FEW),
        (277,),
    ),
    "accuracy 0.70, one run in ten says one thing but three times": (
        dataclasses.replace(HARD, collapse=0.1, odd=3, **FEW),
        (277,),
    ),
    "accuracy 0.70, six examples a source": (SOURCES, (1000,)),
    "correlation 0.88": (Scores(), (277, 1500)),
    "perplexity 20": (Documents(), (150, 1000)),
    "two tasks, accuracy 0.70 and correlation 0.88": (Several(), (450, 1500)),  # of 150 pairs and more
    "answer F1 0.78": (Answers((0.524, 0.58), 1.0, source=0.5), (700,)),  # of at least 100 sources
    "entity F1 0.58": (Sentences((1.2, 1.25), 0.12, seed=0.08, bias=0.1, source=0.5), (150, 600)),
}


def over_seeds(rng, n):
    """f64[2, n, 1] of variance 1, three tenths of it common to both methods, which take the same seeds."""
    return math.sqrt(0.3) * rng.normal(size=(n, 1)) + math.sqrt(0.7) * rng.normal(size=(2, n, 1))


def choice_scores(first, second, share):
    """{metric: value} of the rates of class 1 and of class 0 that are answered rightly."""
    tp, fn, tn, fp = share * first, share * (1 - first), (1 - share) * second, (1 - share) * (1 - second)
    scale = np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    f1 = [2 * right / np.maximum(2 * right + fp + fn, 1e-300) for right in (tp, tn)]
    mcc = (tp * tn - fp * fn) / np.maximum(scale, 1e-300)
    return {"accuracy": tp + tn, "f1": f1[0], "macro_f1": (f1[0] + f1[1]) / 2, "mcc": mcc}


def correlation(x, y):
    x, y = x - x.mean(-1, keepdims=True), y - y.mean()
    return x @ y / np.sqrt((x * x).sum(-1) * (y @ y))
