from .fitting import load_checkpoint as load_checkpoint
from .reading import read_checkpoint as read_checkpoint
from .reading import read_tensors as read_tensors
from .writing import check_metadata as check_metadata
from .writing import check_savable as check_savable
from .writing import save_checkpoint as save_checkpoint
from .writing import write_tensors as write_tensors
