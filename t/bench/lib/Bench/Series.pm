# SPDX-License-Identifier: Apache-2.0
#
# Bench::Series: figures of several alternations. A ratio is formed within an
# alternation, between two runs that followed each other, and only then is the
# median taken: so a machine whose speed drifts does not look like a difference.
package Bench::Series;
use v5.36;

use Exporter qw(import);
our @EXPORT_OK = qw(median table note);

sub new ($class) { return bless { figures => {} }, $class }

# One run's figures: { name => number }.
sub add ($self, $who, $figures) {
    push @{ $self->{figures}{$who}{$_} }, $figures->{$_} for keys %$figures;
    return;
}

sub median (@values) {
    my @sorted = sort { $a <=> $b } @values;
    return 0 unless @sorted;
    return $sorted[ $#sorted / 2 ] if @sorted % 2;
    return ($sorted[ $#sorted / 2 ] + $sorted[ @sorted / 2 ]) / 2;
}

sub of ($self, $who, $figure) { return median(@{ $self->{figures}{$who}{$figure} // [] }) }

# The median and the range of one's figure divided by another's.
sub ratio ($self, $one, $other, $figure) {
    my ($above, $below) = map { $self->{figures}{$_}{$figure} } $one, $other;
    my @all = sort { $a <=> $b } map { $below->[$_] ? $above->[$_] / $below->[$_] : 0 } 0 .. $#$above;
    return (median(@all), $all[0], $all[-1]);
}

# "0.87 | 0.85 to 0.89", two cells of a table.
sub ratio_cells ($self, $one, $other, $figure) {
    return sprintf('%.2f', ($self->ratio($one, $other, $figure))[0]),
        sprintf('%.2f to %.2f', ($self->ratio($one, $other, $figure))[ 1, 2 ]);
}

# Prints a section: a heading and a Markdown table.
sub table ($title, $head, @rows) {
    print "### $title\n\n";
    print '| ' . join(' | ', @$head) . " |\n" . '|---' x @$head . "|\n";
    print '| ' . join(' | ', @$_) . " |\n" for @rows;
    print "\n";
    return;
}

sub note ($text) { print "$text\n\n"; return }

1;
