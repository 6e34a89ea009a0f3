"""The command line: thin commands over ``advisor.api``, one output sink, one exception table."""
