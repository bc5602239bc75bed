"""python -m mlpkit"""

from mlpkit.cli import main

main()
