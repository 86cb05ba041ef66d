from .resnet import preact_resnet as preact_resnet
from .resnet import preact_resnet18 as preact_resnet18
from .resnet import wide_resnet as wide_resnet
from .small import mlp as mlp
from .small import small_cnn as small_cnn
from .vgg import vgg16 as vgg16
