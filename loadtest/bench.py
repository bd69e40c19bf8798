"""Measures the service on this machine, beside its rivals, and writes a table, JSON and plots to loadtest/results.

python loadtest/bench.py                             everything, under 10 minutes on 2 cores
python loadtest/bench.py --full                      with 5 million reservations and long runs
python loadtest/bench.py --only hot,batch --seconds 5
"""

from benchmark.command import main

if __name__ == "__main__":
    main()
