# SPDX-License-Identifier: Apache-2.0
"""Core ML: conversion of the captured program to an ML Program, the package and its description."""
