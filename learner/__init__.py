"""The service side: gateway, queue, learner and the `leeway` command."""
