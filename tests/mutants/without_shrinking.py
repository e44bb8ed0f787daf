"""A plugin of pytest: hypothesis is done with the first failing example. Which one is smallest is not asked here."""

from hypothesis import Phase, settings

settings.register_profile("without shrinking", phases=[Phase.explicit, Phase.generate])
settings.load_profile("without shrinking")
