"""From the name of a model to a folder that can be loaded: found on this disk, or else downloaded, or converted.

    checkpoint_of("120b")                   config and shapes; the weights are not downloaded
    folder_of("openai/gpt-oss-20b")         the model's folder, downloaded if it is not here

`naming` decides what a name means, `folders` finds the folder, `fetching` downloads and `conversion` converts,
`upkeep` repairs and removes. Knows nothing of loading: whether a model fits is asked of the caller before a byte of
weights is downloaded.
"""

from mlx_oss.models.fetching import Writes as Writes
from mlx_oss.models.folders import checkpoint_of as checkpoint_of
from mlx_oss.models.folders import folder_of as folder_of
from mlx_oss.models.folders import folder_without_weights as folder_without_weights
from mlx_oss.models.folders import local_copy as local_copy
from mlx_oss.models.folders import local_folder as local_folder
from mlx_oss.models.naming import hub_model as hub_model
from mlx_oss.models.naming import named as named
from mlx_oss.models.progress import Check as Check
from mlx_oss.models.progress import OnProgress as OnProgress
from mlx_oss.models.progress import Progress as Progress
from mlx_oss.models.upkeep import remove as remove
from mlx_oss.models.upkeep import repair as repair
