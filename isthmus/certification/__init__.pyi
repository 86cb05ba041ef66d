from .accuracy import CertifiedAccuracy as CertifiedAccuracy
from .certifier import Certifier as Certifier
from .intervals import Interval as Interval
from .lipschitz import Lipschitz as Lipschitz
from .loss import certified as certified
from .mixed_monotone import MixedMonotone as MixedMonotone
from .smoothing import Smoothing as Smoothing
from .table import certifiers as certifiers
