"""What quantizers and runtimes can do, how they are started, what their logs mean. Pure: nothing is started here."""
