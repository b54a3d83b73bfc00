"""Ads: campaigns as data, the auction between them, and budgets that hold whoever serves.

Read it in this order: ``campaign`` and ``book`` (what is sold and to whom), ``auction`` (who stands where and for how
much), ``pacing`` and ``calibration`` (what spend and clicks feed back), ``store`` (what Redis holds), ``serving`` (one
request from campaigns to ads).
"""
