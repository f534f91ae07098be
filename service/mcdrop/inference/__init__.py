"""From a query to its result: the queue, the compute thread and the models. The queue knows neither torch nor HTTP."""
