from .budget import Training as Training
from .budget import check_budget as check_budget
from .loop import fit as fit
from .losses import adversarial as adversarial
from .losses import cross_entropy as cross_entropy
from .losses import sharpness_aware as sharpness_aware
from .losses import trades as trades
from .schedules import one_cycle as one_cycle
