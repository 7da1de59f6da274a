"""python -m torchrl_alita.contrib.benchmarl algorithm=alita task=vmas/balance."""

from torchrl_alita.contrib.benchmarl import main

if __name__ == "__main__":
    main()
