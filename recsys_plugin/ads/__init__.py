"""Ads: campaigns as data, the auction between them, and budgets that hold whoever serves.

Read it in this order: ``campaign`` and ``book`` (what is sold and to whom), ``auction`` (who stands where and for how
much), ``pacing`` and ``calibration`` (what spend and clicks feed back), ``store`` (what Redis holds), ``serving`` (one
request from campaigns to ads).
"""

from recsys_plugin.ads.book import AuctionSettings, CampaignBook
from recsys_plugin.ads.campaign import Campaign, Targeting, UserCondition
from recsys_plugin.ads.operations import Campaigns, CampaignStatus

__all__ = [
    "AuctionSettings",
    "Campaign",
    "CampaignBook",
    "CampaignStatus",
    "Campaigns",
    "Targeting",
    "UserCondition",
]
