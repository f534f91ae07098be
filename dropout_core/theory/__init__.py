"""What is known of dropout, as numbers: each function a statement that the tests show true by enumeration of masks.

p is the drop probability, keep = 1 − p. Where nothing else is said the form is the inverted one, m / keep.

Two things that dropout is not:

* Its noise is no privacy guarantee. Differential privacy needs noise of a size set by how much one person's row can
  change the result (Dwork et al. 2006; for training Abadi et al. 2016, arXiv 1607.00133). Dropout clips no gradient,
  what it keeps it keeps exactly, and with probability keep a row's own trace goes into the weights undisturbed.
* It is no model of biological dropout. A synapse fails for reasons of its own activity and is not rescaled when it
  works; the "dropout" of single-cell sequencing takes away small counts rather than large ones. A mask here depends on
  nothing: see missingness.
"""

from dropout_core.theory.gradients import gradient_bias as gradient_bias
from dropout_core.theory.gradients import gradient_variance_inflation as gradient_variance_inflation
from dropout_core.theory.gradients import squared_error_gradient_moments as squared_error_gradient_moments
from dropout_core.theory.linear import dropout_least_squares as dropout_least_squares
from dropout_core.theory.linear import equivalent_l2_penalty as equivalent_l2_penalty
from dropout_core.theory.linear import grouping_bound as grouping_bound
from dropout_core.theory.linear import mask_variance as mask_variance
from dropout_core.theory.linear import monte_carlo_variance as monte_carlo_variance
from dropout_core.theory.missingness import missing_completely_at_random as missing_completely_at_random
from dropout_core.theory.missingness import missingness_dependence as missingness_dependence
from dropout_core.theory.nuclear_norm import equalised_factors as equalised_factors
from dropout_core.theory.nuclear_norm import linear_network_penalty as linear_network_penalty
from dropout_core.theory.nuclear_norm import nuclear_norm_penalty as nuclear_norm_penalty
from dropout_core.theory.nuclear_norm import nuclear_norm_shrinkage as nuclear_norm_shrinkage
from dropout_core.theory.paths import expected_active_depth as expected_active_depth
from dropout_core.theory.paths import last_rate_for_depth as last_rate_for_depth
from dropout_core.theory.paths import recurrent_attenuation as recurrent_attenuation
from dropout_core.theory.removal import co_adaptation as co_adaptation
from dropout_core.theory.subnetworks import geometric_mean_of_subnetworks as geometric_mean_of_subnetworks
from dropout_core.theory.subnetworks import num_subnetworks as num_subnetworks
from dropout_core.theory.subnetworks import subnetworks as subnetworks
