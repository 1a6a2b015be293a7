"""The prototype of a new class of `hyperspherical`, from a few examples and without the data of the old classes.

Two ways, both ours. `fitted_prototype` needs statistics of the old classes, kept when their data were at hand: their
means and one covariance, as in linear discriminant analysis from running statistics (Hayes & Kanan 2020, arXiv
1909.01520). `new_prototype` needs none.

Shapes: N examples, P old prototypes, C old classes (one prototype each where there are statistics), D features.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

BETWEEN, RIDGE, DEVIATIONS_BEHIND = 0.05, 0.3, 3.0  # chosen on held-out images, as is all below
CONSTANT_RIDGE = 0.03


class Fitting(NamedTuple):
    """What a new prototype is made with, in float64: p = base + matrix m + (constant and bias) ones."""

    matrix_DD: Tensor
    """a S^-1."""
    base_D: Tensor
    ones_D: Tensor
    """Its product with unit features is about 1, so that adding it raises a score for all images alike."""
    spread: float
    """a tr(S^-1 W): what N times the mean of N examples' features adds to its square, on average."""
    within_DD: Tensor
    means_CD: Tensor


def fitting(old_CD: Tensor, within_DD: Tensor, means_CD: Tensor) -> Fitting:
    """From the old prototypes, and the covariance W within classes and class means m of their unit features.

    S = W + 0.05 B + 0.3 tr(W + 0.05 B)/D I, where B is the covariance between classes. Linear discriminant analysis
    gives class x the score u.S^-1 m_x - m_x.S^-1 m_x / 2. Less their mean over classes, `a` times these scores of the
    old classes are nearest to their cosines. A new class's score is to be the old classes' mean cosine, and `a` times
    what its own score is above the mean of theirs.
    """
    old_CD, within_DD, means_CD = F.normalize(old_CD.double(), dim=1), within_DD.double(), means_CD.double()
    middle_D = means_CD.mean(0)
    off_CD = means_CD - middle_D
    between_DD = off_CD.T @ off_CD / len(means_CD)
    moment_DD = within_DD + means_CD.T @ means_CD / len(means_CD)
    wide_DD = within_DD + BETWEEN * between_DD
    inverse_DD = torch.linalg.inv(_ridged(wide_DD, RIDGE))
    ones_D = torch.linalg.solve(_ridged(moment_DD, CONSTANT_RIDGE), middle_D)
    weights_CD = means_CD @ inverse_DD
    bias = -0.5 * (weights_CD * means_CD).sum(1).mean()
    centred_CD, target_CD = weights_CD - weights_CD.mean(0), old_CD - old_CD.mean(0)
    seen_CD = centred_CD @ moment_DD
    a = (target_CD * seen_CD).sum() / (centred_CD * seen_CD).sum()
    return Fitting(
        a * inverse_DD,
        old_CD.mean(0) - a * (weights_CD.mean(0) + bias * ones_D),
        ones_D,
        float(a * (inverse_DD * within_DD).sum()),
        within_DD,
        means_CD,
    )


def _ridged(matrix_DD: Tensor, share: float) -> Tensor:
    size = len(matrix_DD)
    return matrix_DD + share * matrix_DD.trace() / size * torch.eye(size).to(matrix_DD)


def fitted_prototype(features_ND: Tensor, old_CD: Tensor, fit: Fitting) -> Tensor:
    """A prototype (D,), of any length, of a new class from N examples' features (N, D).

    The score of linear discriminant analysis for the mean of the unit features, as `fitting` has it, where the mean's
    own error is taken off its square. Then it is raised, if that is possible, until the new class is about three
    standard deviations behind the nearest old class on that class's own images.
    """
    middle_D = F.normalize(features_ND.double(), dim=1).mean(0)
    own_D = fit.matrix_DD @ middle_D
    bias = -0.5 * (middle_D @ own_D - fit.spread / len(features_ND))
    made_D = fit.base_D + own_D + bias * fit.ones_D
    off_CD = made_D - F.normalize(old_CD.double(), dim=1)
    lead_C = (off_CD * fit.means_CD).sum(1)
    deviation_C = (off_CD @ fit.within_DD * off_CD).sum(1).clamp(min=0).sqrt()
    room = -(lead_C + DEVIATIONS_BEHIND * deviation_C).amax()
    return (made_D + room.clamp(min=0) * fit.ones_D).to(features_ND)


SWEEPS = 10  # over the old prototypes; more change little
SHARES, STEP, DEVIATIONS = (0.3, 4.0), 0.1, 1.2  # chosen on held-out images of MNIST and Fashion-MNIST


def new_prototype(features_ND: Tensor, old_PD: Tensor) -> Tensor:
    """A unit prototype (D,) of a new class from N examples' features (N, D) and the old prototypes (P, D), which stay.

    It begins as the mean of the unit features. Sweeps over the old prototypes take out its part along each: what these
    tell apart already. Then steps take out what classes have in common, the mean of the old prototypes without their
    negative parts, which stand for the features of old classes. They end before the examples, each compared with a
    prototype made of the others, would lose to old prototypes: their lead, less 1.2 deviations, stays positive.
    """
    unit_ND, old_PD = F.normalize(features_ND, dim=1), F.normalize(old_PD, dim=1)
    sums_D = unit_ND.sum(0)
    made_MD = torch.cat([sums_D[None], sums_D - unit_ND])  # of all, and of all but one
    for _ in range(SWEEPS):
        for one_D in old_PD:
            made_MD = made_MD - torch.outer(made_MD @ one_D, one_D)
    lowest = unit_ND.min().clamp(max=0.0)  # 0 behind a ReLU
    common_D = F.normalize(F.normalize(old_PD.maximum(lowest), dim=1).mean(0), dim=0)
    strongest_N = (unit_ND @ old_PD.T).amax(1)

    def without(share: float) -> Tensor:
        return F.normalize(made_MD - share * torch.outer(made_MD @ common_D, common_D), dim=1)

    share, most = SHARES
    while share < most:
        lead_N = (without(share + STEP)[1:] * unit_ND).sum(1) - strongest_N
        if lead_N.mean() <= DEVIATIONS * lead_N.std(correction=0):
            break
        share += STEP
    return without(share)[0]
