def latency(subject):
    return {}
