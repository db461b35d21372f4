"""The gateway's HTTP side: what OpenAI's clients send and expect, over a port to the market.

`server` speaks HTTP, `guard` keeps strangers and excess out, `routes` says what is where, `reading`
turns bodies into asks, `runs` keeps the answers that grow, `writing` sends them.
"""
