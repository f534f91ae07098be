"""Acquisition: which rows should a human label next.

`rank(model, x, k=…)` chooses from a pool with a live model. The scores and selectors are also functions of samples, for
callers who already have an array of them. `choose` is the selection algorithm without a network, for callers who
compute the data it requests themselves.
"""

from dropout_core.acquire.batch_epig import batch_epig as batch_epig
from dropout_core.acquire.choose import Ranking as Ranking
from dropout_core.acquire.choose import choose as choose
from dropout_core.acquire.constraints import Constraints as Constraints
from dropout_core.acquire.epig import epig as epig
from dropout_core.acquire.joint import JointChoice as JointChoice
from dropout_core.acquire.joint import batchbald as batchbald
from dropout_core.acquire.need import Need as Need
from dropout_core.acquire.need import concatenate_chunks as concatenate_chunks
from dropout_core.acquire.options import RankOptions as RankOptions
from dropout_core.acquire.pointwise import epistemic_variance as epistemic_variance
from dropout_core.acquire.pointwise import expected_entropy as expected_entropy
from dropout_core.acquire.pointwise import gaussian_mutual_information as gaussian_mutual_information
from dropout_core.acquire.pointwise import least_confidence as least_confidence
from dropout_core.acquire.pointwise import margin as margin
from dropout_core.acquire.pointwise import mean_std as mean_std
from dropout_core.acquire.pointwise import mutual_information as mutual_information
from dropout_core.acquire.pointwise import predictive_entropy as predictive_entropy
from dropout_core.acquire.pointwise import reduce as reduce
from dropout_core.acquire.pointwise import thompson as thompson
from dropout_core.acquire.pointwise import upper_confidence_bound as upper_confidence_bound
from dropout_core.acquire.pointwise import variance as variance
from dropout_core.acquire.pointwise import vote_variation_ratio as vote_variation_ratio
from dropout_core.acquire.rank import rank as rank
from dropout_core.acquire.select import badge as badge
from dropout_core.acquire.select import k_centre as k_centre
from dropout_core.acquire.select import power as power
from dropout_core.acquire.select import softmax as softmax
from dropout_core.acquire.select import softrank as softrank
from dropout_core.acquire.select import top_k as top_k
from dropout_core.acquire.vocabulary import exact_score as exact_score
from dropout_core.acquire.vocabulary import scores_of as scores_of
