"""SGLang servers of one worker: started, refitted to published versions, restarted, used as one pool."""
