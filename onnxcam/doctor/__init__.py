"""Which preprocessing fits a model? What its graph and surroundings leave open is tried on photos."""

from .candidates import FITS as FITS
from .candidates import Candidate as Candidate
from .candidates import as_text as as_text
from .candidates import find_candidates as find_candidates
from .diagnosis import Diagnosis as Diagnosis
from .diagnosis import Row as Row
from .examine import MOST as MOST
from .examine import diagnose as diagnose
from .suspicion import Watch as Watch
