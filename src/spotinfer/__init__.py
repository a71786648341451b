"""spotinfer."""
