"""Who and what features describe."""

from feast import Entity, ValueType

# A person (or household) that the shop can recognise. Ids are strings, so that any shop's ids fit.
user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.STRING, description="A customer of the shop.")

# A thing that the shop can show and sell.
item = Entity(name="item", join_keys=["item_id"], value_type=ValueType.STRING, description="A product of the shop.")

# A group of items, as the catalogue names it: what a buyer of stock plans by.
category = Entity(
    name="category", join_keys=["category"], value_type=ValueType.STRING, description="A category of the catalogue."
)
