#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
#
# domains.t: the examples in php/examples/domains, as a browser would see them.
# Sub-domains share a cookie. Unrelated domains share none, so a ticket takes
# the user across: it must work once, for one host, for the browser that asked,
# and for half a minute, and a stolen or planted one must be worth nothing.
use v5.36;
use File::Basename qw(dirname);
use lib dirname(__FILE__) . '/lib';
use Test::More;
use FakeServer;
use PhpTest;

plan skip_all => 'no php' unless php_binary();

my $folder = top_srcdir() . '/php/examples/domains';
my $server = FakeServer->start;
my @ini    = ('session.save_path' => $server->dsn('?timeout=60&persistent=on'), log_errors => 1, display_errors => 0);
my $PLACE  = 'http://blog.test/arrive.php';
my %env    = (EXAMPLE_INSECURE => 1, EXAMPLE_DOMAIN => 'example.org', EXAMPLE_PLACES => $PLACE,
    EXAMPLE_HERE => $PLACE, EXAMPLE_SHOP => 'http://shop.example/leave.php');
my ($shop, $blog) = map { web($folder, @ini, env => \%env) } 1, 2;

# A browser: a jar of cookies for each host.
sub visit ($jar, $web, $host, $path) {
    my ($status, $body, $header) = web_request($web, $path, cookie => $jar->{$host} // '', headers => { Host => $host });
    for my $cookie (@{ $header->{'set-cookie'} // [] }) { $jar->{$host} = $1 if $cookie =~ /^(PHPSESSID=[^;]+)/ }
    return ($status, $body, $header->{location}[0] // '', $header);
}

subtest 'sub-domains' => sub {
    my ($status, $body, $header) = web_request($shop, '/subdomains.php', headers => { Host => 'www.example.org' });
    my ($cookie) = ($header->{'set-cookie'}[0] // '') =~ /^(FARMSESSION=[^;]+);.*domain=\.?example\.org/i;
    ok($cookie, 'the cookie is for the whole domain') or diag($header->{'set-cookie'}[0] // $body);
    ($status, $body) = web_request($blog, '/subdomains.php', cookie => $cookie, headers => { Host => 'shop.example.org' });
    is($body, "visits: 2\nhosts: www.example.org shop.example.org\n", 'another host below it has the same session');
};

my %user;
visit(\%user, $shop, 'shop.example', '/leave.php?login=carol');
my ($status, $body, $to) = visit(\%user, $blog, 'blog.test', '/arrive.php');
like($to, qr{^http://shop\.example/leave\.php\?to=http%3A%2F%2Fblog\.test%2Farrive\.php&state=[0-9a-f]{32}$}, 'the other domain sends for a ticket');
my ($query) = $to =~ /\?(.*)/;
($status, $body, $to, my $header) = visit(\%user, $shop, 'shop.example', "/leave.php?$query");
my ($ticket) = $to =~ m{^http://blog\.test/arrive\.php\?ticket=([0-9a-f]{40})$};
ok($ticket, 'and gets one') or diag("$status $body $to");
is($header->{'referrer-policy'}[0], 'no-referrer', 'which no further page is told of');
is($server->ttl("ticket>$ticket"), 30, 'it is kept for half a minute');
isnt($user{'shop.example'}, $user{'blog.test'}, 'the two domains have two cookies');

my %thief;
visit(\%thief, $blog, 'blog.test', '/arrive.php');
my %other = %user;
($status, $body, $to) = visit(\%user, $blog, 'blog.test', "/arrive.php?ticket=$ticket");
is("$status $to", "303 $PLACE", 'the ticket is good');
is($server->value("ticket>$ticket"), undef, 'once');
is((visit(\%user, $blog, 'blog.test', '/arrive.php'))[1], "hello carol\n", 'the user is logged in there');
isnt($user{'blog.test'}, $other{'blog.test'}, 'under a new id');
is((visit(\%thief, $blog, 'blog.test', "/arrive.php?ticket=$ticket"))[0], 403, 'a second use is refused');

# Somebody else's ticket in one's own browser, and one's own in somebody else's.
sub fresh_ticket ($jar, $host = undef) {
    my (undef, undef, $to) = visit($jar, $blog, 'blog.test', '/arrive.php');
    (undef, undef, $to) = visit($jar, $shop, 'shop.example', '/leave.php?' . ($to =~ s/.*\?//r));
    return $to =~ /ticket=(.*)/ ? $1 : '';
}
my %mallory;
visit(\%mallory, $shop, 'shop.example', '/leave.php?login=mallory');
my $planted = fresh_ticket(\%mallory);
my %victim;
visit(\%victim, $blog, 'blog.test', '/arrive.php');
is((visit(\%victim, $blog, 'blog.test', "/arrive.php?ticket=$planted"))[0], 403, 'a link with somebody else\'s ticket logs nobody in');
is((visit(\%mallory, $blog, 'blog.test', "/arrive.php?ticket=$planted"))[0], 403, 'and is used up');
for my $bad ('', 'x', '0' x 40, "../$ticket", '0' x 250) {
    my %jar;
    visit(\%jar, $blog, 'blog.test', '/arrive.php');
    is((visit(\%jar, $blog, 'blog.test', "/arrive.php?ticket=$bad"))[0], 403, "ticket \"$bad\" is refused");
}
is((visit(\%user, $shop, 'shop.example', '/leave.php?to=http://evil.test/&state=' . '0' x 32))[0], 400, 'no ticket for places that are not ours');
my %nobody;
is((visit(\%nobody, $shop, 'shop.example', "/leave.php?to=$PLACE&state=" . '0' x 32))[0], 403, 'none for who is not logged in');

# A ticket lies beside the sessions, and who has one may try it as a cookie.
subtest 'a ticket as a session id' => sub {
    my %forger;
    visit(\%forger, $shop, 'shop.example', '/leave.php?login=x%7Ci%3A1%3Bvisits%7Ci%3A998%3B');
    my $ticket = fresh_ticket(\%forger);
    my ($key) = grep { /\Q$ticket\E$/ } $server->keys;
    my (undef, $body) = web_request($shop, '/subdomains.php', cookie => 'FARMSESSION=' . ($key =~ s/([^\w-])/sprintf '%%%02X', ord $1/ger));
    like($body, qr/^visits: 1$/m, 'is none, and puts nothing of its content into a session');
    ok(defined $server->value($key), 'nor is it used up');
};

subtest 'two at the same time' => sub {
    my $dsn  = $server->dsn('?timeout=60');
    my $code = "require '$folder/HandOver.php'; \$h = new HandOver('$dsn');";
    for my $round (1 .. 5) {
        my $ticket = php("$code echo \$h->issue('dave', 'h', 's');")->{out};
        my @pages = map {
            my $pid = open(my $page, '-|') // die $!;
            if (!$pid) { print php("$code echo \$h->redeem('$ticket', 'h', 's') ?? 'nothing', \"\\n\";")->{out}; close STDOUT; POSIX::_exit(0) }
            $page;
        } 1 .. 4;
        is(join('', sort map { <$_> } @pages), "dave\nnothing\nnothing\nnothing\n", "one of four gets it, round $round");
    }
};
is(join(' ', $server->held), '', 'no lock is left');

# A ticket has its own options, whatever the sessions of the site have. Most of
# all its lock: without it, two readers at once would both get it.
for my $options ('?lock=off&timeout=60', '?timeout=60&lock=0&prefix=shop-', '?ttl=3600&prefix=shop-&on_error=warn&lock=off', '?lock=off') {
    my $dsn  = $server->dsn($options);
    my $code = "require '$folder/HandOver.php'; \$h = new HandOver('$dsn');";
    $server->frames;
    my $ticket = php("$code echo \$h->issue('erin', 'h', 's');")->{out};
    is($server->ttl("ticket>$ticket"), 30, "$options: a ticket for half a minute, under its own prefix");
    is(php("$code echo \$h->redeem('$ticket', 'h', 's');")->{out}, 'erin', "$options: is good");
    is($server->types, 'PLWPLR', "$options: with a lock");
}
done_testing();
