from .attacks import Blend as Blend
from .attacks import Patch as Patch
from .attacks import poison as poison
from .curves import (
    Bezier as Bezier,
)
from .curves import (
    Curve as Curve,
)
from .curves import (
    PolyChain as PolyChain,
)
from .curves import (
    Route as Route,
)
from .curves import (
    connect as connect,
)
from .curves import (
    expected_over_t as expected_over_t,
)
from .data import (
    L1 as L1,
)
from .data import (
    L2 as L2,
)
from .data import (
    Augment as Augment,
)
from .data import (
    Data as Data,
)
from .data import (
    Linf as Linf,
)
from .data import (
    as_data as as_data,
)
from .data import (
    load_data as load_data,
)
from .data import (
    split as split,
)
from .defenses import Choice as Choice
from .defenses import Repair as Repair
from .defenses import inspect as inspect
from .defenses import repair as repair
from .metrics import (
    Accuracy as Accuracy,
)
from .metrics import (
    AttackSuccess as AttackSuccess,
)
from .metrics import (
    InjectionSuccess as InjectionSuccess,
)
from .metrics import (
    MeanLoss as MeanLoss,
)
from .metrics import (
    Path as Path,
)
from .metrics import (
    RobustAccuracy as RobustAccuracy,
)
from .metrics import (
    evaluate_path as evaluate_path,
)
from .metrics import (
    input_hessian as input_hessian,
)
from .metrics import (
    input_hessian_top as input_hessian_top,
)
from .models import (
    load_checkpoint as load_checkpoint,
)
from .models import (
    permuted_copy as permuted_copy,
)
from .models import (
    recalibrate as recalibrate,
)
from .models import (
    save_checkpoint as save_checkpoint,
)
from .training import (
    Training as Training,
)
from .training import (
    adversarial as adversarial,
)
from .training import (
    cross_entropy as cross_entropy,
)
from .training import (
    fit as fit,
)
from .training import (
    sharpness_aware as sharpness_aware,
)
from .training import (
    trades as trades,
)
from .types import BadInput as BadInput

__version__: str
